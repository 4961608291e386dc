//! A network of real nodes on this machine whose containers are simulated, and a client of theirs.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scratch::{Ran, Scratch, blosm, text};
use crate::site::{corner, get, try_send};

/// A guard against what never comes; nothing is measured by it.
const GUARD: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(5);

const SERVICES: &str = r#"
[[service]]
name = "counter"
image = "example/counter:1@sha256:0000000000000000000000000000000000000000000000000000000000000001"
port = 8080
resources = { memory = "32MiB", cpu = 0.1 }

[[service]]
name = "echo"
image = "example/counter:1@sha256:0000000000000000000000000000000000000000000000000000000000000001"
port = 8080
stateless = true
resources = { memory = "32MiB", cpu = 0.1 }
"#;

#[expect(
    clippy::disallowed_methods,
    reason = "other processes are looked at from outside; no task runs here"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

/// Waits for `what`.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < GUARD, "still waiting: {what}");
        pause();
    }
}

/// The nodes, 500 m apart; the first is the authority. All are members and connected to each other.
pub(crate) struct Road {
    scratch: Scratch,
    ip: Ipv4Addr,
    nodes: Vec<Option<Child>>,
}

impl Road {
    /// `change` is applied to the text of each node's configuration.
    #[track_caller]
    pub(crate) fn of(count: usize, change: impl Fn(String) -> String) -> Road {
        let scratch = Scratch::new();
        let ip = corner(&scratch);
        let mut road = Road {
            scratch,
            ip,
            nodes: Vec::new(),
        };
        let [peers, ..] = road.addresses(0);
        let bootstrap = format!("/ip4/{}/tcp/{}", peers.ip(), peers.port());
        let network = road.scratch.path("network.toml");
        let words = ["network", "new", "--name", "road", "--bootstrap", &bootstrap];
        blosm(words.into_iter().chain(["--out", text(&network)])).done();
        let admissions: Vec<_> = (0..count).map(|index| road.init(index, &change)).collect();
        for (index, admission) in admissions.iter().enumerate() {
            road.nodes.push(None);
            road.start(index);
            if index > 0 {
                let dir = road.dir(0);
                let words = admission.split(' ').skip(1).chain(["--data-dir", text(&dir)]);
                blosm(words).done();
            }
        }
        for index in 0..count {
            until("all are members", || {
                let status = road.status(index);
                status["members"] == count && status["peers"] == count - 1
            });
        }
        road
    }

    fn init(&self, index: usize, change: &impl Fn(String) -> String) -> String {
        let [peers, gateway, api] = self.addresses(index);
        let listen = format!("/ip4/{}/tcp/{}", peers.ip(), peers.port());
        let key = self.scratch.path("authority.key");
        let (label, place) = (
            label(index),
            format!("37.45,{:.4}", 126.65 + 0.0057 * index as f64),
        );
        let (gateway, api) = (gateway.to_string(), api.to_string());
        let mut flags = vec!["--label", &label, "--location", &place, "--listen", &listen];
        flags.extend([
            "--advertise",
            &listen,
            "--gateway-listen",
            &gateway,
            "--api-listen",
            &api,
        ]);
        flags.extend(["--runtime", "sim", "--json"]);
        if index == 0 {
            flags.extend(["--key", text(&key)]);
        }
        let made = self.scratch.init(&label, &flags).done().json();
        let config = self.dir(index).join("blosm.toml");
        let written = fs::read_to_string(&config).unwrap();
        let set = written.replace("#min_stay = \"10s\"", "min_stay = \"0s\"");
        assert_ne!(set, written);
        fs::write(&config, change(set + SERVICES)).unwrap();
        made["admit"].as_str().unwrap().to_owned()
    }

    /// For peers, for cars, for the operator.
    pub(crate) fn addresses(&self, index: usize) -> [SocketAddr; 3] {
        let [a, b, c, d] = self.ip.octets();
        let ip = Ipv4Addr::new(a, b, c, d.wrapping_add(u8::try_from(index).unwrap()));
        [4401, 8080, 4480].map(|port| SocketAddr::from((ip, port)))
    }

    pub(crate) fn gateway(&self, index: usize) -> SocketAddr {
        self.addresses(index)[1]
    }

    pub(crate) fn dir(&self, index: usize) -> PathBuf {
        self.scratch.path(&label(index))
    }

    /// Starts a node, and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&mut self, index: usize) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path(&format!("{index}.log")))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_blosm"));
        command.args(["run", "--data-dir"]).arg(self.dir(index));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BLOSM_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.nodes[index] = Some(child.spawn().unwrap());
        let [_, _, api] = self.addresses(index);
        until("a node that was started is ready", || {
            let ended = self.nodes[index].as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {}", self.log(index));
            try_send(api, "GET", "/readyz", "", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut node = self.nodes[index].take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// What a node has logged, over all of its starts.
    pub(crate) fn log(&self, index: usize) -> String {
        fs::read_to_string(self.scratch.path(&format!("{index}.log"))).unwrap()
    }

    /// What a node's local API says.
    #[track_caller]
    pub(crate) fn api(&self, index: usize, path: &str) -> Value {
        let answer = get(self.addresses(index)[2], path, "");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    #[track_caller]
    pub(crate) fn status(&self, index: usize) -> Value {
        self.api(index, "/v1/status")
    }

    /// A command to that node.
    pub(crate) fn run(&self, index: usize, words: &[&str]) -> Ran {
        let dir = self.dir(index);
        blosm(words.iter().copied().chain(["--data-dir", text(&dir)]))
    }

    /// The report of a move to that node which its owner is told to make, and which must come to an end.
    #[track_caller]
    pub(crate) fn migrate(&self, owner: usize, session: &str, to: usize, more: &[&str]) -> Value {
        let to = label(to);
        let words = ["migrate", session, "--to", &to, "--json"];
        let ran = self.run(owner, &[&words, more].concat());
        // What it tells meanwhile stands on stderr.
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        ran.json()
    }

    /// The sessions that a node owns, as it says itself.
    pub(crate) fn sessions(&self, index: usize, service: &str) -> Vec<String> {
        let sessions = self.api(index, "/v1/sessions");
        let mine = |session: &&Value| session["mine"] == true && session["service"] == service;
        let sessions = sessions.as_array().unwrap().iter().filter(mine);
        sessions
            .map(|session| session["session"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The node that owns the only session of `service`.
    pub(crate) fn owner(&self, service: &str) -> Option<(usize, String)> {
        (0..self.nodes.len()).find_map(|index| Some((index, self.sessions(index, service).pop()?)))
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

pub(crate) fn label(index: usize) -> String {
    format!("node{index}")
}

/// One request's answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn of(answer: &str) -> Option<Answer> {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some(Answer {
            status: head.split(' ').nth(1)?.parse().ok()?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// A request to a service at that gateway.
pub(crate) fn ask(
    gateway: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    headers: &str,
) -> io::Result<Answer> {
    let token = token.map_or(String::new(), |token| format!("X-Blosm-Session: {token}\r\n"));
    let answer = try_send(gateway, method, path, &format!("{token}{headers}"), "")?;
    Answer::of(&answer).ok_or_else(|| io::Error::other(answer))
}

/// A client that posts numbers to its session's counter, one after another, and never the same twice.
pub(crate) struct Client {
    pub(crate) token: String,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    stop: AtomicBool,
    /// The node that it asks.
    at: AtomicUsize,
    seen: Mutex<Seen>,
}

/// What became of a client's numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Those that were answered with a success, in order, each with the instance that answered.
    pub(crate) answered: Vec<(u64, String)>,
    /// Those that failed, with the reason.
    pub(crate) failed: Vec<(u64, String)>,
}

impl Client {
    /// Opens a session at that node and goes on posting there.
    #[track_caller]
    pub(crate) fn start(road: &Road, at: usize) -> Client {
        let gateways: Vec<_> = (0..road.nodes.len()).map(|index| road.gateway(index)).collect();
        let first = ask(gateways[at], "POST", "/counter/", None, "X-Number: 1\r\n").unwrap();
        assert_eq!(first.status, 200, "{}", first.body);
        let token = first.header("x-blosm-session").unwrap().to_owned();
        let seen = Seen {
            answered: vec![(1, instance(&first.body))],
            failed: Vec::new(),
        };
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            at: AtomicUsize::new(at),
            seen: Mutex::new(seen),
        });
        let thread = std::thread::spawn({
            let (shared, token) = (shared.clone(), token.clone());
            move || drive(&shared, &token, &gateways)
        });
        Client {
            token,
            shared,
            thread,
        }
    }

    /// From now on it asks that node.
    pub(crate) fn drive_to(&self, index: usize) {
        self.shared.at.store(index, Ordering::SeqCst);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits for further answers, so that what has just happened shows.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let before = self.seen().answered.len();
        until("the client is answered", || {
            self.seen().answered.len() >= before + 3
        });
    }

    /// Ends, and gives what it has seen.
    pub(crate) fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.shared.seen.lock().unwrap().clone()
    }
}

fn drive(shared: &Shared, token: &str, gateways: &[SocketAddr]) {
    for number in 2.. {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let at = gateways[shared.at.load(Ordering::SeqCst)];
        let asked = ask(
            at,
            "POST",
            "/counter/",
            Some(token),
            &format!("X-Number: {number}\r\n"),
        );
        let mut seen = shared.seen.lock().unwrap();
        match asked {
            Ok(answer) if answer.status == 200 => seen.answered.push((number, instance(&answer.body))),
            Ok(answer) => seen.failed.push((number, answer.body)),
            Err(error) => seen.failed.push((number, error.to_string())),
        }
        drop(seen);
        pause();
    }
}

fn instance(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    body["instance"].as_str().unwrap().to_owned()
}

/// The service's own log: the one witness that asks no ledger.
pub(crate) struct Log {
    numbers: Vec<u64>,
    /// First and last line of each run, in nanoseconds, in the order of their starts.
    runs: Vec<(String, u128, u128)>,
}

impl Log {
    /// As it stands at the session's owner, whom `at` asks.
    #[track_caller]
    pub(crate) fn of(road: &Road, at: usize, token: &str) -> Log {
        let answer = ask(road.gateway(at), "GET", "/counter/log", Some(token), "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let mut log = Log {
            numbers: Vec::new(),
            runs: Vec::new(),
        };
        for line in answer.body.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let (kind, instance, at) = (words[0], words[1], words[2].parse().unwrap());
            if kind == "start" {
                log.runs.push((instance.to_owned(), at, at));
                continue;
            }
            log.runs.iter_mut().find(|run| run.0 == instance).unwrap().2 = at;
            if kind != "stop" {
                log.numbers.push(kind.parse().unwrap());
            }
        }
        log
    }

    /// Instances that ran, in order.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Every number that was answered is there once, none but a failed one is missing, and one run was over before the
    /// next began.
    #[track_caller]
    pub(crate) fn holds(&self, seen: &Seen) {
        let mut numbers = self.numbers.clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), self.numbers.len(), "a number is there twice");
        for (number, _) in &seen.answered {
            assert!(numbers.binary_search(number).is_ok(), "{number} is lost");
        }
        let highest = numbers.last().copied().unwrap_or_default();
        let failed = |number| seen.failed.iter().any(|(failed, _)| *failed == number);
        for number in (1..=highest).filter(|number| numbers.binary_search(number).is_err()) {
            assert!(failed(number), "{number} is missing");
        }
        for pair in self.runs.windows(2) {
            assert!(
                pair[0].2 < pair[1].1,
                "two containers ran at once: {:?}",
                self.runs
            );
        }
        // Seen from outside: an instance that was followed by another never answers again.
        let mut instances: Vec<_> = seen.answered.iter().map(|(_, instance)| instance).collect();
        instances.dedup();
        let distinct: std::collections::BTreeSet<_> = instances.iter().collect();
        assert_eq!(
            distinct.len(),
            instances.len(),
            "an old container answers: {instances:?}"
        );
    }
}
