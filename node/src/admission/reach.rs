//! Whether a libp2p node answers at an address: a TCP connection and the first line of multistream-select, which a
//! listener repeats. A port that is open for something else does not pass for a node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blosm_net::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one address is tried: a filtered port answers nothing.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);
/// multistream-select's first line, behind its length.
const GREETING: &[u8] = b"\x13/multistream/1.0.0\n";

/// Connects and greets. Gives this end's address of the connection.
pub(crate) async fn greet(address: &Multiaddr) -> io::Result<SocketAddr> {
    let target = socket_address(address).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "only /ip4/ADDRESS/tcp/PORT and /ip6/ADDRESS/tcp/PORT are dialled",
        )
    })?;
    let greeted = async {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(GREETING).await?;
        let mut answer = [0; GREETING.len()];
        stream.read_exact(&mut answer).await?;
        if answer != GREETING {
            return Err(io::Error::other("something else than a blosm node answers there"));
        }
        stream.local_addr()
    };
    tokio::time::timeout(LIMIT, greeted)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The address as TCP has it.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// An error for people, without the system's numbers.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::TimedOut => "no answer; a firewall may drop it".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => "it hung up".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_node_that_greets_back_counts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let answers: [&[u8]; 3] = [GREETING, b"HTTP/1.1 400 Bad Request\r\n", b""];
        let serving = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; GREETING.len()];
                stream.read_exact(&mut asked).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        assert_eq!(greet(&address).await.unwrap().ip(), IpAddr::from([127, 0, 0, 1]));
        let other = greet(&address).await.unwrap_err();
        assert_eq!(explain(&other), "something else than a blosm node answers there");
        assert_eq!(explain(&greet(&address).await.unwrap_err()), "it hung up");
        serving.await.unwrap();
        assert_eq!(
            explain(&greet(&address).await.unwrap_err()),
            "nothing listens there"
        );
        let named = greet(&"/dns4/host1/tcp/1".parse().unwrap()).await.unwrap_err();
        assert!(explain(&named).contains("/ip4/"));
    }
}
