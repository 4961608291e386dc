//! The demo's service as a plain process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(dir: &Path) -> Service {
        let binary = dir.join("counter");
        if !binary.exists() {
            std::fs::write(&binary, blosm_testnet::image::COUNTER).unwrap();
            std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut child = Command::new(binary)
            .env("DATA_DIR", dir.join("data"))
            .env("PORT", port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its first line says that it listens.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("listens"), "{line}");
        Service { child, port }
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, number: u64) -> String {
        let body = number.to_string();
        self.ask(&format!(
            "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n"))
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(),
            signal,
        )
        .unwrap();
        self.child.wait().unwrap().code()
    }
}

fn log(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("data/log")).unwrap();
    text.lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn count_and_log_survive_a_stop_and_a_kill() {
    let dir = TempDir::new().unwrap();
    let service = Service::start(dir.path());
    assert!(service.post(1).contains(r#"{"n":1,"count":1,"#));
    assert!(service.post(2).contains(r#"{"n":2,"count":2,"#));
    assert_eq!(service.end(Signal::TERM), Some(0));
    let service = Service::start(dir.path());
    assert!(service.post(3).contains(r#"{"n":3,"count":3,"#));
    assert_eq!(service.end(Signal::KILL), None);
    let service = Service::start(dir.path());
    assert!(service.get("/count").contains(r#""count":3,"#));
    assert_eq!(
        log(dir.path()),
        ["start", "1", "2", "stop", "start", "3", "start"]
    );
    assert_eq!(service.end(Signal::TERM), Some(0));
}

#[test]
fn one_connection_serves_many_requests() {
    let dir = TempDir::new().unwrap();
    let service = Service::start(dir.path());
    let answers = service.ask(
        "POST / HTTP/1.1\r\nX-Number: 7\r\n\r\n\
         POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n8\r\n0\r\n\r\n\
         GET /log HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answers.contains(r#""n":7"#) && answers.contains(r#""n":8"#),
        "{answers}"
    );
    assert!(answers.lines().any(|line| line.starts_with("8 ")), "{answers}");
    service.end(Signal::TERM);
}

#[test]
fn nonsense_is_refused_and_counts_nothing() {
    let dir = TempDir::new().unwrap();
    let service = Service::start(dir.path());
    let post = |rest: &str| service.ask(&format!("POST / HTTP/1.1\r\nConnection: close\r\n{rest}"));
    assert!(post("Content-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 400"));
    assert!(post("Content-Length: 99999999\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(post("Content-Length: -1\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(service.get("/nowhere").starts_with("HTTP/1.1 404"));
    assert!(
        service
            .ask("DELETE / HTTP/1.1\r\nConnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 405")
    );
    assert!(service.get("/count").contains(r#""count":0,"#));
    service.end(Signal::TERM);
}

#[test]
fn fill_writes_what_it_is_told() {
    let dir = TempDir::new().unwrap();
    let service = Service::start(dir.path());
    let answer = service.ask("POST /fill?bytes=300000 HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        std::fs::metadata(dir.path().join("data/fill-1")).unwrap().len(),
        300_000
    );
    service.end(Signal::TERM);
}

#[test]
fn work_goes_on_by_itself_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let service = Service::start(dir.path());
    let post = |service: &Service, query: &str| {
        service.ask(&format!(
            "POST /work?{query} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    for query in [
        "files=0&bytes=100",
        "files=10&bytes=5",
        "files=10&bytes=9999999999999&rate=1",
    ] {
        assert!(post(&service, query).starts_with("HTTP/1.1 400"), "{query}");
    }
    let plan = "files=300&bytes=1000000&large=400000&rate=2000000";
    assert!(post(&service, plan).starts_with("HTTP/1.1 200"));
    assert!(post(&service, plan).starts_with("HTTP/1.1 507"), "once is enough");
    let work = dir.path().join("data/work");
    assert_eq!(std::fs::metadata(work.join("large")).unwrap().len(), 400_000);
    let small: Vec<u64> = ["0000", "0001", "0002"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(work.join(folder)).unwrap())
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    let sum: u64 = small.iter().sum();
    assert_eq!(small.len(), 300);
    // A file may be empty while it is written anew.
    assert!((450_000..750_000).contains(&sum), "{sum}");
    assert_eq!(service.end(Signal::TERM), Some(0));
    let before = std::fs::read(work.join("large")).unwrap();
    let service = Service::start(dir.path());
    while service.get("/work").contains(r#""written":0,"#) {}
    assert_eq!(service.end(Signal::TERM), Some(0));
    assert_ne!(std::fs::read(work.join("large")).unwrap(), before);
}
