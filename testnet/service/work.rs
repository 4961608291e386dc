//! A steady load on the container's file system: a tree of small files beside a large one, then writes at a rate.
//!
//! Half of everything is random and half is text like a log's, so that it compresses as real data does. Half of the
//! bytes that are written later go to blocks of the large file, half replace small files whole. The plan lies in a
//! file beside the tree: wherever the container is started again, the writing goes on by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a request may ask for at most.
const MAX_FILES: u64 = 1_000_000;
const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;
const MAX_RATE: u64 = 1024 * 1024 * 1024;
/// Files in one folder.
const PER_FOLDER: u64 = 100;
const BLOCK: u64 = 4096;
/// Between two bursts of writes.
const TICK: Duration = Duration::from_millis(10);

/// The load.
pub(super) struct Work {
    dir: PathBuf,
    plan: Plan,
    written: AtomicU64,
}

/// What the tree is like and how fast it is written.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Small files.
    files: u64,
    /// All small files together, in bytes.
    small: u64,
    /// The large file, in bytes.
    large: u64,
    /// Bytes a second.
    rate: u64,
    /// Whether half of it is text.
    text: bool,
}

impl Plan {
    /// `bytes` is the whole tree; the large file takes two fifths of it unless `large` says otherwise. None if that
    /// is too much, or if there is nothing to write to.
    pub(super) fn of(files: u64, bytes: u64, large: Option<u64>, rate: u64, text: bool) -> Option<Plan> {
        let large = large.unwrap_or(bytes / 5 * 2);
        let small = bytes.checked_sub(large)?;
        let fits = (1..=MAX_FILES).contains(&files)
            && (BLOCK..=MAX_BYTES).contains(&large)
            && (files..=MAX_BYTES).contains(&small)
            && rate <= MAX_RATE;
        fits.then_some(Plan {
            files,
            small,
            large,
            rate,
            text,
        })
    }

    fn parse(text: &str) -> Option<Plan> {
        let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().ok());
        let mut next = || numbers.next().flatten();
        let (files, small, large, rate): (_, u64, _, _) = (next()?, next()?, next()?, next()?);
        Plan::of(files, small.checked_add(large)?, Some(large), rate, next()? != 0)
    }

    /// The length of a small file, around the average and always the same for one of them.
    fn length(&self, file: u64) -> usize {
        let mean = self.small / self.files;
        let spread = XorShift(file.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).next();
        (mean / 4 + spread % (mean * 3 / 2).max(1)).max(1) as usize
    }
}

impl Work {
    /// Makes the tree, then starts to write.
    pub(super) fn begin(data: &Path, plan: Plan) -> io::Result<Arc<Work>> {
        let work = Work::at(data, plan);
        fs::create_dir_all(&work.dir)?;
        let mut source = Source::new()?;
        let mut bytes = Vec::new();
        for file in 0..plan.files {
            if file % PER_FOLDER == 0 {
                fs::create_dir_all(work.folder(file))?;
            }
            source.fill(&mut bytes, plan.length(file), plan.text && file % 2 == 0);
            fs::write(work.file(file), &bytes)?;
        }
        let mut whole = File::create(work.large())?;
        for block in 0..plan.large.div_ceil(BLOCK) {
            let length = BLOCK.min(plan.large - block * BLOCK) as usize;
            source.fill(&mut bytes, length, plan.text && block % 2 == 0);
            whole.write_all(&bytes)?;
        }
        let Plan {
            files,
            small,
            large,
            rate,
            text,
        } = plan;
        let line = format!("{files} {small} {large} {rate} {}\n", u8::from(text));
        fs::write(work.dir.join("plan"), line)?;
        work.start(source)
    }

    /// Goes on with what an earlier run was told; none if it was told nothing.
    pub(super) fn resume(data: &Path) -> io::Result<Option<Arc<Work>>> {
        match fs::read_to_string(data.join("work/plan")) {
            Ok(text) => {
                let plan = Plan::parse(&text).ok_or_else(|| io::Error::other("the plan of the work is damaged"))?;
                Work::at(data, plan).start(Source::new()?).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes that this run has written since the tree was made.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn at(data: &Path, plan: Plan) -> Work {
        Work {
            dir: data.join("work"),
            plan,
            written: AtomicU64::new(0),
        }
    }

    fn start(self, source: Source) -> io::Result<Arc<Work>> {
        let work = Arc::new(self);
        let writer = Arc::clone(&work);
        thread::Builder::new().spawn(move || {
            if let Err(error) = writer.write(source) {
                eprintln!("counter: the work ends: {error}");
            }
        })?;
        Ok(work)
    }

    fn write(&self, mut source: Source) -> io::Result<()> {
        // Not before the service answers: a large file that lies in an image is copied by its first opening to write.
        let large = OpenOptions::new().write(true).open(self.large())?;
        let (mut blocks, mut files) = (0, 0);
        let (mut bytes, mut last, mut credit) = (Vec::new(), Instant::now(), 0.0);
        loop {
            thread::sleep(TICK);
            // What a frozen container did not write is not made up for all at once.
            let passed = last.elapsed().min(Duration::from_secs(1));
            last = Instant::now();
            credit += passed.as_secs_f64() * self.plan.rate as f64;
            while credit > 0.0 {
                if blocks <= files {
                    let block = source.below(self.plan.large / BLOCK);
                    source.fill(&mut bytes, BLOCK as usize, self.plan.text && block % 2 == 0);
                    large.write_all_at(&bytes, block * BLOCK)?;
                    blocks += BLOCK;
                } else {
                    let file = source.below(self.plan.files);
                    source.fill(&mut bytes, self.plan.length(file), self.plan.text && file % 2 == 0);
                    fs::write(self.file(file), &bytes)?;
                    files += bytes.len() as u64;
                }
                credit -= bytes.len() as f64;
            }
            self.written.store(blocks + files, Ordering::Relaxed);
        }
    }

    fn large(&self) -> PathBuf {
        self.dir.join("large")
    }

    fn folder(&self, file: u64) -> PathBuf {
        self.dir.join(format!("{:04}", file / PER_FOLDER))
    }

    fn file(&self, file: u64) -> PathBuf {
        self.folder(file).join(format!("{file:06}.dat"))
    }
}

/// Where bytes come from: never the same ones in two runs.
struct Source {
    random: XorShift,
    clock_ms: u64,
}

impl Source {
    fn new() -> io::Result<Source> {
        let mut seed = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        Ok(Source {
            random: XorShift(u64::from_le_bytes(seed) | 1),
            clock_ms: 0,
        })
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit.max(1)
    }

    fn fill(&mut self, bytes: &mut Vec<u8>, length: usize, text: bool) {
        bytes.clear();
        while bytes.len() < length {
            if text {
                self.line(bytes);
            } else {
                bytes.extend_from_slice(&self.random.next().to_le_bytes());
            }
        }
        bytes.truncate(length);
    }

    /// A line of a log: time, level, component, some words of which a few are frequent, numbers among them.
    fn line(&mut self, bytes: &mut Vec<u8>) {
        const LEVELS: [&str; 8] = ["INFO", "INFO", "INFO", "INFO", "DEBUG", "DEBUG", "WARN", "ERROR"];
        self.clock_ms += self.below(2000);
        let at = self.clock_ms;
        let (hour, minute, second, ms) = (at / 3_600_000 % 24, at / 60_000 % 60, at / 1000 % 60, at % 1000);
        let level = LEVELS[self.below(8) as usize];
        let component = WORDS[self.below(24) as usize];
        let _ = write!(
            bytes,
            "2025-06-14T{hour:02}:{minute:02}:{second:02}.{ms:03}Z {level} {component}:"
        );
        for _ in 0..4 + self.below(8) {
            let _ = match self.below(8) {
                0 => write!(bytes, " {}", self.below(10_000)),
                1 => write!(bytes, " id={:08x}", self.random.next() as u32),
                // The product of two is small more often than large.
                _ => {
                    let (a, b) = (self.below(WORDS.len() as u64), self.below(WORDS.len() as u64));
                    write!(bytes, " {}", WORDS[(a * b) as usize / WORDS.len()])
                }
            };
        }
        bytes.push(b'\n');
    }
}

/// Marsaglia's xorshift64.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

const WORDS: [&str; 128] = [
    "the", "request", "to", "node", "of", "session", "a", "served", "in", "for", "from", "container", "with", "at",
    "gateway", "car", "is", "ms", "edge", "image", "layer", "on", "received", "sensor", "frame", "after", "and",
    "camera", "lane", "position", "sent", "bytes", "not", "cache", "started", "stopped", "connection", "closed",
    "timeout", "retry", "by", "queue", "worker", "task", "finished", "loaded", "model", "object", "detected",
    "pedestrian", "vehicle", "speed", "limit", "signal", "green", "red", "crossing", "north", "south", "east", "west",
    "update", "map", "tile", "version", "checksum", "valid", "invalid", "state", "changed", "health", "check", "passed",
    "failed", "client", "server", "upstream", "latency", "buffer", "full", "empty", "memory", "usage", "percent",
    "disk", "write", "read", "file", "open", "lock", "acquired", "released", "thread", "pool", "size", "new", "old",
    "value", "key", "token", "expired", "renewed", "user", "login", "config", "reload", "metric", "export", "batch",
    "commit", "index", "row", "table", "query", "plan", "scan", "join", "sort", "merge", "split", "shard", "replica",
    "leader", "follower", "vote", "term", "snapshot", "restore",
];
