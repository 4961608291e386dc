//! What every simulated container serves: a counter whose whole state lies in its writable layer.
//!
//! Every numbered request becomes one line of an append-only log, so that a request that was lost, or applied twice on
//! the way from one node to the next, can be seen afterwards. The log is read when a run starts, and from nowhere else.
//!
//! ```text
//! POST /            number in X-Number or in the body: appends "N instance unix ns", answers {"n","count","instance"}
//! POST /slow?ms=    the same, and waits before it answers      GET /slow?ms=  waits, then answers
//! GET  /log         the log                                    GET /count     {"count","instance"}
//! POST /fill?bytes= writes that many incompressible bytes      GET /healthz   ok
//! ```
//! The log also tells each start and each orderly stop: "start INSTANCE UNIX_NS US", "stop INSTANCE UNIX_NS
//! US", with the time that it took. A line is one write(2) and is not synced, as with any such service: a killed
//! process loses nothing of it, a machine without power may. Where an oracle is named (`oracle`), it is told first. A run that
//! has ended answers nothing, reads neither.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::oracle::{self, Oracle};
use super::spec::Spec;
use crate::service::StopSignal;

/// Longest body that is read.
const MAX_BODY: usize = 1 << 20;
/// Most bytes of one filling.
const MAX_FILL: u64 = 1 << 30;
/// Bytes that are written at a time: between two of them a run can end.
const FILL_STEP: usize = 1 << 20;
/// How long a stop waits for answers that are under way.
const STOP_PATIENCE: Duration = Duration::from_millis(5);
/// Longest wait of a slow request, milliseconds.
const MAX_SLOW: u64 = 60_000;

/// One run: its name, and the files that are the state.
pub(super) struct Counter {
    dir: PathBuf,
    instance: String,
    state: Mutex<State>,
    /// Requests that were read and are not answered yet.
    busy: AtomicUsize,
}

struct State {
    log: File,
    counter: File,
    count: u64,
    fills: u64,
    oracle: Option<Oracle>,
    /// Nothing is written any more.
    ended: bool,
}

impl Counter {
    /// Reads the state of the container's runs before, and writes down that another begins.
    pub(super) fn open(dir: &Path, spec: &Spec) -> io::Result<Self> {
        let (began, began_ns) = (Instant::now(), oracle::now_ns());
        std::fs::create_dir_all(dir)?;
        let path = dir.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let counter = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("count"))?;
        // The log decides: a kill between its write and the counter's leaves the counter one behind.
        let mut numbers = Vec::new();
        for line in BufReader::new(File::open(&path)?).lines() {
            numbers.extend(line?.split(' ').next().and_then(|word| word.parse::<u64>().ok()));
        }
        let mut fills = 0;
        for entry in std::fs::read_dir(dir)? {
            fills += u64::from(entry?.file_name().as_encoded_bytes().starts_with(b"fill-"));
        }
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let instance = hex::encode(name);
        let mut oracle = Oracle::of(spec, &instance)?;
        if let Some(oracle) = &mut oracle {
            oracle.started(began_ns, &numbers)?;
        }
        let state = State {
            log,
            counter,
            count: numbers.len() as u64,
            fills,
            oracle,
            ended: false,
        };
        let counter = Self {
            dir: dir.to_owned(),
            instance,
            state: Mutex::new(state),
            busy: AtomicUsize::new(0),
        };
        counter.note("start", began)?;
        Ok(counter)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A task that panicked with the lock has written whole lines or nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, number: u64) -> io::Result<u64> {
        let mut state = self.state();
        state.append(&format!("{number} {} {}\n", self.instance, unix_ns()))?;
        state.count += 1;
        let count = state.count;
        let text = format!("{count:020}\n");
        state.counter.write_all_at(text.as_bytes(), 0)?;
        if let Some(oracle) = &mut state.oracle
            && let Err(error) = oracle.answers(count, number)
        {
            // What the oracle does not see must not happen.
            state.ended = true;
            return Err(error);
        }
        Ok(count)
    }

    /// Where it may block. Ends early when the run does.
    fn fill(&self, bytes: u64) -> io::Result<()> {
        let name = {
            let mut state = self.state();
            state.fills += 1;
            format!("fill-{}", state.fills)
        };
        let mut random = vec![0; FILL_STEP];
        let mut file = None;
        let mut left = bytes;
        loop {
            let step = usize::try_from(left).unwrap_or(FILL_STEP).min(FILL_STEP);
            getrandom::fill(&mut random[..step]).map_err(io::Error::other)?;
            // With the lock, so that nothing is written after the end.
            let state = self.state();
            state.lives()?;
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(File::create(self.dir.join(&name))?),
            };
            file.write_all(&random[..step])?;
            left -= step as u64;
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// A line that tells a start or a stop and how long it took.
    fn note(&self, what: &str, since: Instant) -> io::Result<()> {
        let mut state = self.state();
        let share = since.elapsed().as_micros();
        state.append(&format!("{what} {} {} {share}\n", self.instance, unix_ns()))?;
        state.ended = what == "stop";
        let (ended, count) = (state.ended, state.count);
        match &mut state.oracle {
            Some(oracle) if ended => oracle.stopped(count),
            _ => Ok(()),
        }
    }

    /// From now on nothing is written, and the oracle sees that it is over.
    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.oracle = None;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let _busy = Busy(&self.busy);
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let parameter = |name: &str| -> Option<u64> {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, _)| *key == name)
                .find_map(|(_, value)| value.parse().ok())
        };
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        let lives = self.state().lives();
        if reads && let Err(error) = lives {
            return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
        }
        match (&head.method, path) {
            (&Method::POST, "/" | "/slow") => {
                let in_header = head.headers.get("x-number").and_then(|value| value.to_str().ok());
                let body = match Limited::new(body, MAX_BODY).collect().await {
                    Ok(body) => body.to_bytes(),
                    Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
                };
                let number = in_header.or_else(|| std::str::from_utf8(&body).ok());
                let Some(number) = number.and_then(|text| text.trim().parse().ok()) else {
                    let say = "send a number in X-Number or in the body\n";
                    return plain(StatusCode::BAD_REQUEST, say);
                };
                match self.record(number) {
                    Ok(count) => {
                        wait(path, parameter("ms")).await;
                        let instance = &self.instance;
                        json(format!(
                            r#"{{"n":{number},"count":{count},"instance":"{instance}"}}"#
                        ))
                    }
                    Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
                }
            }
            (&Method::POST, "/fill") => match parameter("bytes").filter(|bytes| *bytes <= MAX_FILL) {
                None => plain(StatusCode::BAD_REQUEST, "say how much: /fill?bytes=N\n"),
                Some(bytes) => {
                    let counter = self.clone();
                    let filled = tokio::task::spawn_blocking(move || counter.fill(bytes)).await;
                    match filled.map_err(io::Error::other).and_then(|outcome| outcome) {
                        Ok(()) => json(format!(r#"{{"bytes":{bytes},"instance":"{}"}}"#, self.instance)),
                        Err(error) => plain(StatusCode::INSUFFICIENT_STORAGE, format!("{error}\n")),
                    }
                }
            },
            (_, "/log") if reads => match tokio::fs::read(self.dir.join("log")).await {
                Ok(log) => plain(StatusCode::OK, log),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            (_, "/" | "/count") if reads => {
                let count = self.state().count;
                json(format!(r#"{{"count":{count},"instance":"{}"}}"#, self.instance))
            }
            (_, "/healthz") if reads => plain(StatusCode::OK, "ok\n"),
            (_, "/slow") if reads => {
                let ms = wait(path, parameter("ms")).await;
                json(format!(r#"{{"slept_ms":{ms},"instance":"{}"}}"#, self.instance))
            }
            (_, "/" | "/log" | "/count" | "/healthz" | "/slow" | "/fill") => {
                plain(StatusCode::METHOD_NOT_ALLOWED, "no such method here\n")
            }
            _ => plain(
                StatusCode::NOT_FOUND,
                "no such path: a simulated container serves a counter\n",
            ),
        }
    }
}

impl State {
    fn lives(&self) -> io::Result<()> {
        if self.ended {
            return Err(io::Error::other("stopping"));
        }
        Ok(())
    }

    /// One write(2) per line: a kill cannot leave half a line between two whole ones.
    fn append(&mut self, line: &str) -> io::Result<()> {
        self.lives()?;
        if self.log.write(line.as_bytes())? == line.len() {
            Ok(())
        } else {
            Err(io::Error::other("the disk is full"))
        }
    }
}

/// Serves until a signal comes: an orderly stop, or SIGKILL, at which everything ends as it stands.
pub(super) async fn serve(
    listener: TcpListener,
    counter: Counter,
    mut signals: watch::Receiver<Option<StopSignal>>,
) -> io::Result<()> {
    let counter = Ends(Arc::new(counter));
    let mut connections = JoinSet::new();
    let signal = loop {
        tokio::select! {
            signal = signalled(&mut signals) => break signal,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // It broke off before it was taken up; or there are no descriptors for it now.
                    tokio::time::sleep(STOP_PATIENCE).await;
                    continue;
                };
                let counter = counter.0.clone();
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let answer = service_fn(move |request| {
                        let answer = counter.clone().answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    // A client that breaks off is no error of ours.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    };
    drop(listener);
    if signal.is_some_and(|signal| signal != StopSignal::SigKill) {
        let began = Instant::now();
        while counter.0.busy.load(Ordering::SeqCst) > 0 && began.elapsed() < STOP_PATIENCE {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        counter.0.note("stop", began)?;
    }
    Ok(())
}

/// Waits for a signal; none when nobody can send one any more, because the node ends.
async fn signalled(signals: &mut watch::Receiver<Option<StopSignal>>) -> Option<StopSignal> {
    let signal = signals.wait_for(Option::is_some).await;
    signal.ok().and_then(|signal| *signal)
}

/// Ends the run's writing, however the serving ends.
struct Ends(Arc<Counter>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Counts one request as answered.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits at a path that is slow; gives for how many milliseconds.
async fn wait(path: &str, ms: Option<u64>) -> u64 {
    let ms = match path {
        "/slow" => ms.unwrap_or(0).min(MAX_SLOW),
        _ => 0,
    };
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    ms
}

fn unix_ns() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain", body.into())
}

fn json(mut body: String) -> Response<Full<Bytes>> {
    body.push('\n');
    response(StatusCode::OK, "application/json", body.into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
