//! Whether a process listens, as the kernel sees it in the process's own network namespace.

use std::net::Ipv4Addr;

/// How a table of sockets writes that one listens.
const LISTENS: &str = "0A";

/// Whether anything in the network namespace of that process accepts TCP connections to `address` and `port`. False also
/// when the process is gone or not visible here.
#[must_use]
pub fn listens(pid: u32, address: Ipv4Addr, port: u16) -> bool {
    ["tcp", "tcp6"].into_iter().any(|table| {
        std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))
            .is_ok_and(|table| has_listener(&table, address, port))
    })
}

/// `sl local_address rem_address st ...`: addresses as hexadecimal words of this machine's byte order, then the port.
fn has_listener(table: &str, address: Ipv4Addr, port: u16) -> bool {
    let exact = format!("{:08X}", u32::from_ne_bytes(address.octets()));
    let mapped = format!("{:016}{:08X}{exact}", 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]));
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else {
            return false;
        };
        let Some((at, on)) = local.split_once(':') else {
            return false;
        };
        state == LISTENS
            && u16::from_str_radix(on, 16) == Ok(port)
            && (at.bytes().all(|digit| digit == b'0') || at == exact || at == mapped)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

    #[test]
    fn only_a_listener_at_that_address_and_port_counts() {
        let at = Ipv4Addr::new(172, 17, 0, 2);
        let local = u32::from_ne_bytes([172, 17, 0, 2]);
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let line = |address: &str, state: &str| {
            format!(
                "  sl  local_address rem_address   st\n   0: {address}:1F90 00000000:0000 {state} 00000000:0"
            )
        };
        let exact = format!("{local:08X}");
        for address in ["00000000", &"0".repeat(32), &exact] {
            assert!(has_listener(&line(address, "0A"), at, 8080), "{address}");
            assert!(!has_listener(&line(address, "01"), at, 8080), "no listener");
            assert!(!has_listener(&line(address, "0A"), at, 8081), "another port");
        }
        assert!(!has_listener(&line(&format!("{loopback:08X}"), "0A"), at, 8080));
        assert!(!has_listener("", at, 8080));
        assert!(!has_listener("  sl\n  0: nonsense", at, 8080));
    }

    #[test]
    fn the_kernel_writes_what_is_read() {
        let me = std::process::id();
        let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = any.local_addr().unwrap().port();
        assert!(listens(me, Ipv4Addr::LOCALHOST, port));
        let _connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(any);
        assert!(
            !listens(me, Ipv4Addr::LOCALHOST, port),
            "a connection is no listener"
        );
        let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = one.local_addr().unwrap().port();
        assert!(listens(me, Ipv4Addr::LOCALHOST, port));
        assert!(!listens(me, Ipv4Addr::new(127, 0, 0, 2), port));
        // Where there is no IPv6 there is nothing to see.
        if let Ok(mapped) = TcpListener::bind((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0)) {
            assert!(listens(
                me,
                Ipv4Addr::LOCALHOST,
                mapped.local_addr().unwrap().port()
            ));
        }
        if let Ok(both) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
            assert!(listens(
                me,
                Ipv4Addr::LOCALHOST,
                both.local_addr().unwrap().port()
            ));
        }
        assert!(!listens(u32::MAX, Ipv4Addr::LOCALHOST, port));
    }
}
