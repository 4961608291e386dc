//! The demo's service: a counter whose whole state lies in its container's filesystem.
//!
//! Every numbered request becomes one line of an append-only log, so that a request that was lost, or applied twice
//! on the way from one node to the next, can be seen afterwards. The standard library is all it uses: it is built
//! as one static binary and packed into an image of its own.
//!
//! ```text
//! POST /            number in X-Number or in the body: appends "N <instance> <unix ns>", answers {"n","count","instance"}
//! GET  /log         the log                GET /count    {"count","instance"}
//! GET  /healthz     ok                     GET /slow?ms= waits, then answers
//! POST /slow?ms=    as POST /, and waits before it answers
//! POST /fill?bytes= writes that many incompressible bytes into the data folder, to make the writable layer heavy
//! POST /work?files=&bytes=&large=&rate=&text= makes a tree of so many files and bytes with one large file, then
//!                   writes to it at that many bytes a second, also after a restart; half of it text unless text=0
//! GET  /work        {"written","instance"}, the bytes that this run has written
//! GET  /mapped      with `MAPPED`: the numbers in the mapped file, one a line
//! GET  /database    with `SQLITE`: {"integrity","rows","last","committed","requests"}, read by another sqlite3
//! ```
//! The log also tells each start and each orderly stop, with its own share of them in microseconds: "start <instance>
//! <unix ns> <since the program began>", "stop <instance> <unix ns> <since the signal>".
//! Environment: `DATA_DIR` (default `/data`), `PORT` (default 8080), `DEAF` (set: SIGTERM changes nothing), `MAPPED`
//! (set: each number is also stored through a mapping), `SQLITE` (a program: each number is also a row).

mod database;
mod mapped;
mod work;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use database::Database;
use mapped::Mapped;
use work::{Plan, Work};

/// Larger heads and bodies are refused: nothing that drives this service sends them.
const MAX_LINE: u64 = 8 * 1024;
const MAX_HEADERS: usize = 64;
const MAX_BODY: u64 = 1024 * 1024;
const MAX_FILL: u64 = 1024 * 1024 * 1024;
/// How long a stop waits for answers that are being written.
const STOP_PATIENCE: Duration = Duration::from_millis(5);

fn main() {
    let began = Instant::now();
    // Before any thread starts, so that every thread inherits the mask and only `signals::wait` sees them. A
    // container's first process has no default action for SIGTERM: without this it would be ignored.
    signals::block();
    if let Err(error) = run(began) {
        eprintln!("counter: {error}");
        std::process::exit(1);
    }
}

fn run(began: Instant) -> io::Result<()> {
    let dir = PathBuf::from(std::env::var_os("DATA_DIR").unwrap_or_else(|| "/data".into()));
    let port = match std::env::var("PORT") {
        Ok(text) => text
            .parse()
            .map_err(|_| io::Error::other(format!("PORT={text} is not a port")))?,
        Err(_) => 8080,
    };
    let service = Arc::new(Service::open(&dir, began)?);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!(
        "counter {} listens on {}",
        service.instance,
        listener.local_addr()?
    );
    let accepting = Arc::clone(&service);
    thread::spawn(move || accept(&listener, &accepting));
    signals::wait();
    while std::env::var_os("DEAF").is_some() {
        signals::wait();
    }
    service.stop(Instant::now())
}

fn accept(listener: &TcpListener, service: &Arc<Service>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let service = Arc::clone(service);
        // A connection for which there is no thread is dropped; the client sees it closed.
        let _ = thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || serve(stream, &service));
    }
}

/// The files and what they hold.
struct Service {
    dir: PathBuf,
    instance: String,
    state: Mutex<State>,
    work: OnceLock<Arc<Work>>,
    mapped: Option<Mapped>,
    database: Option<Arc<Database>>,
    /// Requests that were read and whose answer is not written yet.
    busy: AtomicUsize,
}

struct State {
    log: File,
    counter: File,
    count: u64,
    fills: u64,
    stopped: bool,
}

impl Service {
    fn open(dir: &Path, began: Instant) -> io::Result<Service> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let counter = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("count"))?;
        // The log decides: a kill between its write and the counter's leaves the counter one behind.
        let count = BufReader::new(File::open(&path)?)
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
            .count() as u64;
        let fills = std::fs::read_dir(dir)?
            .filter_map(Result::ok)
            .filter(|e| is_fill(&e.file_name()))
            .count() as u64;
        let mut seed = [0u8; 8];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let instance = format!("{:016x}", u64::from_le_bytes(seed));
        let state = State {
            log,
            counter,
            count,
            fills,
            stopped: false,
        };
        let mapped = std::env::var_os("MAPPED").map(|_| Mapped::open(dir)).transpose()?;
        let database = std::env::var_os("SQLITE").map(|program| Database::open(Path::new(&program), dir));
        let service = Service {
            dir: dir.to_owned(),
            instance,
            state: Mutex::new(state),
            work: OnceLock::new(),
            mapped,
            database: database.transpose()?,
            busy: AtomicUsize::new(0),
        };
        if let Some(work) = Work::resume(dir)? {
            let _ = service.work.set(work);
        }
        service.note("start", began)?;
        Ok(service)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked with the lock has written whole lines or nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, number: u64) -> io::Result<u64> {
        let mut state = self.state();
        if state.stopped {
            return Err(io::Error::other("stopping"));
        }
        state.append(&format!("{number} {} {}\n", self.instance, unix_ns()))?;
        state.count += 1;
        let count = state.count;
        state
            .counter
            .write_all_at(format!("{count:020}\n").as_bytes(), 0)?;
        drop(state);
        if let Some(mapped) = &self.mapped {
            mapped.push(number)?;
        }
        if let Some(database) = &self.database {
            database.insert(number, &self.instance)?;
        }
        Ok(count)
    }

    fn fill(&self, bytes: u64) -> io::Result<()> {
        let name = {
            let mut state = self.state();
            state.fills += 1;
            format!("fill-{}", state.fills)
        };
        let mut random = File::open("/dev/urandom")?.take(bytes);
        io::copy(&mut random, &mut File::create(self.dir.join(name))?)?;
        Ok(())
    }

    /// One working tree for the life of a container.
    fn begin_work(&self, plan: Plan) -> io::Result<()> {
        if self.work.get().is_some() {
            return Err(io::Error::other("it works already"));
        }
        // Of two that came at once the later one's writer is the one that is not counted.
        let _ = self.work.set(Work::begin(&self.dir, plan)?);
        Ok(())
    }

    /// A line that tells a start or a stop and how long it took.
    fn note(&self, what: &str, since: Instant) -> io::Result<()> {
        let mut state = self.state();
        state.stopped = what == "stop";
        let share = since.elapsed().as_micros();
        state.append(&format!("{what} {} {} {share}\n", self.instance, unix_ns()))
    }

    /// Lets answers that are under way go out, then closes the log.
    fn stop(&self, signal: Instant) -> io::Result<()> {
        let patience = Instant::now() + STOP_PATIENCE;
        while self.busy.load(Ordering::SeqCst) > 0 && Instant::now() < patience {
            thread::sleep(Duration::from_micros(200));
        }
        self.note("stop", signal)
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let parameter = |name: &str| {
            query
                .split('&')
                .filter_map(|p| p.split_once('='))
                .find(|(k, _)| *k == name)
                .and_then(|(_, v)| v.parse().ok())
        };
        match (request.method.as_str(), path) {
            ("POST", "/" | "/slow") => match request.number() {
                None => Answer::text(400, "send a number in X-Number or in the body\n"),
                Some(n) => match self.record(n) {
                    Ok(count) => {
                        wait(path, parameter("ms"));
                        Answer::json(format!(
                            r#"{{"n":{n},"count":{count},"instance":"{}"}}"#,
                            self.instance
                        ))
                    }
                    Err(error) => Answer::text(503, &format!("{error}\n")),
                },
            },
            ("POST", "/fill") => match parameter("bytes").filter(|bytes| *bytes <= MAX_FILL) {
                None => Answer::text(400, "say how much: /fill?bytes=N\n"),
                Some(bytes) => match self.fill(bytes) {
                    Ok(()) => Answer::json(format!(r#"{{"bytes":{bytes},"instance":"{}"}}"#, self.instance)),
                    Err(error) => Answer::text(507, &format!("{error}\n")),
                },
            },
            ("POST", "/work") => {
                let number = |name: &str| parameter(name).unwrap_or(0);
                let (files, bytes, rate) = (number("files"), number("bytes"), number("rate"));
                let text = parameter("text") != Some(0);
                match Plan::of(files, bytes, parameter("large"), rate, text) {
                    None => Answer::text(400, "say how much: /work?files=N&bytes=N&large=N&rate=N\n"),
                    Some(plan) => match self.begin_work(plan) {
                        Ok(()) => Answer::json(format!(r#"{{"files":{files},"instance":"{}"}}"#, self.instance)),
                        Err(error) => Answer::text(507, &format!("{error}\n")),
                    },
                }
            }
            ("GET" | "HEAD", "/work") => {
                let written = self.work.get().map_or(0, |work| work.written());
                Answer::json(format!(r#"{{"written":{written},"instance":"{}"}}"#, self.instance))
            }
            ("GET" | "HEAD", "/log") => match std::fs::read(self.dir.join("log")) {
                Ok(body) => Answer {
                    status: 200,
                    kind: "text/plain",
                    body,
                },
                Err(error) => Answer::text(500, &format!("{error}\n")),
            },
            ("GET" | "HEAD", "/" | "/count") => {
                let count = self.state().count;
                Answer::json(format!(r#"{{"count":{count},"instance":"{}"}}"#, self.instance))
            }
            ("GET" | "HEAD", "/healthz") => Answer::text(200, "ok\n"),
            ("GET" | "HEAD", "/mapped") => match &self.mapped {
                None => Answer::text(404, "it was started without MAPPED\n"),
                Some(mapped) => {
                    let lines: String = mapped.numbers().iter().map(|n| format!("{n}\n")).collect();
                    Answer::text(200, &lines)
                }
            },
            ("GET" | "HEAD", "/database") => match self.database.as_deref().map(Database::check) {
                None => Answer::text(404, "it was started without SQLITE\n"),
                Some(Ok(found)) => Answer::json(found),
                Some(Err(error)) => Answer::text(500, &format!("{error}\n")),
            },
            ("GET" | "HEAD", "/slow") => {
                let ms = wait(path, parameter("ms"));
                Answer::json(format!(r#"{{"slept_ms":{ms},"instance":"{}"}}"#, self.instance))
            }
            (_, "/" | "/log" | "/count" | "/healthz" | "/slow" | "/fill" | "/work" | "/mapped" | "/database") => {
                Answer::text(405, "no such method here\n")
            }
            _ => Answer::text(404, "no such path\n"),
        }
    }
}

impl State {
    /// One write(2) per line: a kill cannot leave half a line between two whole ones.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let written = self.log.write(line.as_bytes())?;
        if written == line.len() {
            Ok(())
        } else {
            Err(io::Error::other("the disk is full"))
        }
    }
}

/// Waits at a path that is slow; gives for how many milliseconds.
fn wait(path: &str, ms: Option<u64>) -> u64 {
    let ms = match path {
        "/slow" => ms.unwrap_or(0).min(60_000),
        _ => 0,
    };
    thread::sleep(Duration::from_millis(ms));
    ms
}

fn is_fill(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("fill-"))
}

fn unix_ns() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos())
}

struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, body: &str) -> Answer {
        Answer {
            status,
            kind: "text/plain",
            body: body.as_bytes().to_vec(),
        }
    }

    fn json(body: String) -> Answer {
        Answer {
            status: 200,
            kind: "application/json",
            body: (body + "\n").into_bytes(),
        }
    }
}

struct Request {
    method: String,
    target: String,
    number: Option<String>,
    close: bool,
    body: Vec<u8>,
}

impl Request {
    fn number(&self) -> Option<u64> {
        let body = || std::str::from_utf8(&self.body).ok();
        self.number
            .as_deref()
            .or_else(body)
            .and_then(|text| text.trim().parse().ok())
    }
}

fn serve(stream: TcpStream, service: &Service) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    loop {
        let request = match read_request(&mut reader, &mut writer) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let _ = write_answer(
                    &mut writer,
                    &Answer::text(400, &format!("{error}\n")),
                    false,
                    true,
                );
                return;
            }
        };
        service.busy.fetch_add(1, Ordering::SeqCst);
        let answer = service.answer(&request);
        let head_only = request.method == "HEAD";
        let written = write_answer(&mut writer, &answer, head_only, request.close);
        service.busy.fetch_sub(1, Ordering::SeqCst);
        if request.close || written.is_err() {
            return;
        }
    }
}

/// `None` when the client has closed the connection between two requests.
fn read_request(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> io::Result<Option<Request>> {
    let Some(line) = read_line(reader)? else {
        return Ok(None);
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other("not HTTP"));
    };
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        number: None,
        close: version == "HTTP/1.0",
        body: Vec::new(),
    };
    let (mut length, mut chunked, mut expects) = (0, false, false);
    for count in 0.. {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            break;
        }
        if count == MAX_HEADERS {
            return Err(io::Error::other("too many headers"));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| io::Error::other("a header without a colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                length = value
                    .parse()
                    .map_err(|_| io::Error::other("bad Content-Length"))?
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => request.close = value.eq_ignore_ascii_case("close"),
            "expect" => expects = true,
            "x-number" => request.number = Some(value.to_owned()),
            _ => {}
        }
    }
    if length > MAX_BODY {
        return Err(io::Error::other("the body is too large"));
    }
    if expects {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if chunked {
        request.body = read_chunks(reader)?;
    } else {
        request.body = vec![0; length as usize];
        reader.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::Error::other("bad chunk size"))?;
        if body.len() as u64 + size.min(MAX_BODY + 1) > MAX_BODY {
            return Err(io::Error::other("the body is too large"));
        }
        let start = body.len();
        body.resize(start + size as usize, 0);
        reader.read_exact(&mut body[start..])?;
        // The line end after a chunk; after the last chunk trailers may come first.
        while read_line(reader)?.is_some_and(|line| size == 0 && !line.is_empty()) {}
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::other("a line is too long or cut off"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| io::Error::other("not text"))
}

fn write_answer(writer: &mut TcpStream, answer: &Answer, head_only: bool, close: bool) -> io::Result<()> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    };
    let connection = if close { "close" } else { "keep-alive" };
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(&answer.body);
    }
    writer.write_all(&bytes)
}

/// SIGTERM and SIGINT by sigwait(3): the C library is linked anyway, and this spares a crate.
mod signals {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    const SIG_BLOCK: i32 = 0;

    /// As large as glibc's and musl's `sigset_t`.
    #[repr(C, align(8))]
    struct Set([u8; 128]);

    unsafe extern "C" {
        fn sigemptyset(set: *mut Set) -> i32;
        fn sigaddset(set: *mut Set, signal: i32) -> i32;
        fn pthread_sigmask(how: i32, set: *const Set, old: *mut Set) -> i32;
        fn sigwait(set: *const Set, signal: *mut i32) -> i32;
    }

    fn set() -> Set {
        let mut set = Set([0; 128]);
        // SAFETY: `set` is a live, writable buffer of sigset_t's size and alignment.
        unsafe {
            sigemptyset(&mut set);
            sigaddset(&mut set, SIGTERM);
            sigaddset(&mut set, SIGINT);
        }
        set
    }

    pub(super) fn block() {
        let set = set();
        // SAFETY: `set` is initialised; a null `old` is allowed.
        unsafe { pthread_sigmask(SIG_BLOCK, &set, std::ptr::null_mut()) };
    }

    pub(super) fn wait() {
        let set = set();
        let mut signal = 0;
        // SAFETY: both pointers are live for the call; the signals in `set` are blocked in every thread.
        while unsafe { sigwait(&set, &mut signal) } != 0 {}
    }
}
