//! A data directory whose node really runs, beside an engine that holds nothing.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::{Ran, Scratch, blosm, text};

/// A guard against a start that hangs, in seconds; nothing is measured by it.
const GUARD: &str = "240";

/// The data directory of an authority, and the addresses that are its own while the test runs.
pub(crate) struct Site {
    pub(crate) scratch: Scratch,
    pub(crate) ip: Ipv4Addr,
}

impl Site {
    pub(crate) fn new() -> Site {
        let site = Site::empty();
        site.scratch.network();
        let key = site.scratch.path("authority.key");
        let flags = site.flags();
        let mut args = vec!["--key", text(&key), "--location", "37.45,126.65"];
        args.extend(flags.iter().map(String::as_str));
        site.scratch.init("d", &args).done();
        site
    }

    /// A machine without a data directory.
    pub(crate) fn empty() -> Site {
        let scratch = Scratch::new();
        let ip = corner(&scratch);
        Site { scratch, ip }
    }

    /// The settings that keep this machine to its own addresses.
    fn flags(&self) -> [String; 8] {
        let [peers, gateway, api] = self.addresses();
        [
            "--listen".to_owned(),
            format!("/ip4/{}/tcp/{}", peers.ip(), peers.port()),
            "--gateway-listen".to_owned(),
            gateway.to_string(),
            "--api-listen".to_owned(),
            api.to_string(),
            "--engine-socket".to_owned(),
            format!("unix://{}", self.socket().display()),
        ]
    }

    /// Runs a command that talks to this machine's node.
    pub(crate) fn blosm(&self, words: &[&str]) -> Ran {
        let dir = self.dir();
        blosm(words.iter().copied().chain(["--data-dir", text(&dir)]))
    }

    /// `blosm join` with `invite` on this machine.
    pub(crate) fn join(&self, invite: &str, more: &[&str]) -> Ran {
        let flags = self.flags();
        let mut words = vec!["join", invite, "--location", "37.46,126.65", "--radius", "300"];
        words.extend(flags.iter().map(String::as_str));
        words.extend(more);
        self.blosm(&words)
    }

    /// A process of its own that joins, for what is done beside it.
    pub(crate) fn joining(&self, invite: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blosm"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BLOSM_")) {
            command.env_remove(name);
        }
        command.args([
            "join",
            invite,
            "--location",
            "37.46,126.65",
            "--radius",
            "300",
            "--json",
        ]);
        command.args(self.flags()).arg("--data-dir").arg(self.dir());
        command
    }

    /// For peers, for cars, for the operator.
    pub(crate) fn addresses(&self) -> [SocketAddr; 3] {
        [4401, 8080, 4480].map(|port| SocketAddr::from((self.ip, port)))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.path("engine.sock")
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.scratch.path("d")
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args([GUARD, env!("CARGO_BIN_EXE_blosm"), "run", "--data-dir"]);
        command.arg(self.dir()).args(more);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BLOSM_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs `blosm run`, which must not start.
    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(more).output().unwrap();
        Ran {
            status: status.code().unwrap(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Exit status 1, one line with all of `parts`, and nobody listens on any of its addresses but the taken one.
    #[track_caller]
    pub(crate) fn refuses(&self, parts: &[&str], taken: Option<SocketAddr>) {
        // What went well before is logged, and is no part of what went wrong.
        let mut ran = self.run(&[]);
        ran.stderr = ran
            .stderr
            .lines()
            .filter(|line| !line.contains("  INFO "))
            .collect::<Vec<_>>()
            .join("\n");
        ran.failed(parts);
        for address in self.addresses().iter().filter(|address| Some(**address) != taken) {
            assert!(TcpStream::connect(address).is_err(), "{address} is listened on");
        }
    }

    /// Starts, serves, and ends in good order: nothing of an earlier failure is in its way.
    #[track_caller]
    pub(crate) fn starts(&self) {
        let node = self.start();
        self.serves();
        node.stop();
    }

    /// Starts `blosm run` and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Running {
        let mut child = self
            .command(&[])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut node = Running { child, log };
        let mut said = String::new();
        while node.log.read_line(&mut said).unwrap() > 0 {
            if said.lines().last().is_some_and(|line| line.contains(": ready ")) {
                return node;
            }
        }
        panic!("it ended: {said}");
    }

    #[track_caller]
    pub(crate) fn serves(&self) {
        let [_, gateway, api] = self.addresses();
        for (address, path) in [(api, "/readyz"), (gateway, "/.blosm/healthz")] {
            let answer = get(address, path, "");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
}

/// The whole of 127/8 is this machine: a corner of it for each test, so that fixed ports meet nobody. Some addresses after
/// it are free as well.
pub(crate) fn corner(scratch: &Scratch) -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().hash_one(scratch.path("")).to_be_bytes();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 240))
}

/// The whole answer to a GET with these further header lines.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    send(address, "GET", path, headers, "")
}

/// The same for any method, with a JSON body.
#[track_caller]
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    try_send(address, method, path, headers, body).unwrap()
}

/// The same of a node that may not be there.
pub(crate) fn try_send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The processes that this one has started and not waited for.
pub(crate) fn children(pid: u32) -> Vec<Pid> {
    let parent = format!("PPid:\t{pid}");
    let is_child = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .filter_map(Pid::from_raw)
        .collect()
}

/// A node that serves.
pub(crate) struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// The process that `timeout` has started.
    #[track_caller]
    pub(crate) fn pid(&self) -> Pid {
        children(self.child.id()).into_iter().next().unwrap()
    }

    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }

    /// `timeout` passes it on.
    fn signal(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // None after `stop`: a process that was waited for has no id any more.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal();
            let _ = self.child.wait();
        }
    }
}

/// An engine that holds nothing: enough for a node without services to come up beside it.
pub(crate) fn empty_engine(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
}

fn answer(stream: UnixStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let path = head.split([' ', '?']).nth(1)?;
        let (status, body) = match path {
            path if path.ends_with("/_ping") => ("200 OK", "OK"),
            path if path.ends_with("/version") => ("200 OK", r#"{"Version":"20.10.0","ApiVersion":"1.41"}"#),
            path if path.ends_with("/info") => (
                "200 OK",
                r#"{"ID":"x","ServerVersion":"20.10.0","Driver":"overlay2","DriverStatus":[],
                    "DockerRootDir":"/","Architecture":"x86_64","NCPU":1,"MemTotal":1073741824}"#,
            ),
            path if path.ends_with("/containers/json") || path.ends_with("/images/json") => ("200 OK", "[]"),
            _ => ("404 Not Found", r#"{"message":"nothing here"}"#),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
    }
}
