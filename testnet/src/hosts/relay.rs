//! The process between a host's link and the bridge: every frame passes it, late or not at all.
//!
//! ```text
//!   host eth0 ==veth== hN --+ bridge bN +-- aN =[ relay ]= zN --+ bridge of the road
//! ```
//! It works on any kernel with TUN/TAP, so a link behaves alike on every machine: netem is not needed, and not used.
//! The host's own interface is not touched, so a link may be made worse and better again while its node runs.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::quality::{Judge, LinkQuality, Quality};
use super::{Road, port};
use crate::process::Process;
use crate::shell::{self, sh};

/// Longest frame: an Ethernet frame of the usual length, with room for a tag.
const FRAME: usize = 2048;
/// Frames of one direction that wait; more are lost, as in a router. Half a second at 100 Mbit/s.
const WAITING: usize = 4096;
/// How often the file with the qualities is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the relay may take until frames pass it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a host's link that bad, or changes how bad it is. Gives the relay's process; `known` is the one that may run.
pub(super) fn set(
    road: &Road,
    number: usize,
    quality: &LinkQuality,
    dir: &Path,
    known: Option<Process>,
) -> Result<Process> {
    let control = dir.join("link.json");
    let new = control.with_extension("json.new");
    fs::write(&new, serde_json::to_vec(quality)?).with_context(|| format!("{}", new.display()))?;
    fs::rename(&new, &control).with_context(|| format!("{}", control.display()))?;
    if let Some(process) = known.filter(Process::alive) {
        // It has read the file by then.
        pause(2 * LOOK);
        return Ok(process);
    }
    let program = shell::beside("blosm-testnet").context("there is no blosm-testnet beside this program")?;
    let arguments = ["link-relay", &number.to_string(), &control.to_string_lossy()].map(str::to_owned);
    let log = dir.join("link.log");
    let process = Process::spawn(&road.bridge(), &program, &arguments, &log)?;
    let deadline = Instant::now() + PATIENCE;
    while !plugged(road, number)? {
        if !process.alive() || Instant::now() > deadline {
            process.end(Signal::KILL, PATIENCE);
            bail!(
                "the relay of host {number}'s link does not run: {}",
                fs::read_to_string(&log).unwrap_or_default().trim()
            );
        }
        pause(Duration::from_millis(10));
    }
    Ok(process)
}

/// Takes the relay away.
pub(super) fn clear(road: &Road, number: usize, process: Process) -> Result<()> {
    let bridge = road.bridge();
    sh(&format!("ip -n {bridge} link set {} master road", port(number)))?;
    process.end(Signal::TERM, PATIENCE);
    sh(&format!("ip -n {bridge} link del b{number}")).map(drop)
}

/// Whether the host's link goes through the relay.
fn plugged(road: &Road, number: usize) -> Result<bool> {
    let text = sh(&format!(
        "ip -n {} -j link show dev {}",
        road.bridge(),
        port(number)
    ))?;
    let links: serde_json::Value = serde_json::from_str(&text).context("`ip -j`")?;
    Ok(links[0]["master"] == format!("b{number}").as_str())
}

/// The relay's process: inside the namespace of the bridge, until it is ended. `control` is the file with the
/// qualities.
///
/// # Errors
/// It cannot make its devices, or one of them is gone.
pub fn run(number: usize, control: PathBuf) -> Result<()> {
    let (near, far, bridge) = (format!("a{number}"), format!("z{number}"), format!("b{number}"));
    let device = |name: &str| {
        DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .build_sync()
            .map(Arc::new)
            .with_context(|| format!("no TAP device {name}: the kernel must have /dev/net/tun"))
    };
    let (here, there) = (device(&near)?, device(&far)?);
    if sh(&format!("ip link show dev {bridge}")).is_err() {
        sh(&format!("ip link add {bridge} type bridge"))?;
    }
    sh(&format!("ip link set {near} master {bridge} up"))?;
    sh(&format!("ip link set {far} master road up"))?;
    sh(&format!("ip link set {bridge} up"))?;
    let quality = Arc::new(Mutex::new(read(&control)?));
    let up = Lane::between(here.clone(), there.clone(), quality.clone(), |both| both.up);
    let down = Lane::between(there, here, quality.clone(), |both| both.down);
    up.start("up")?;
    down.start("down")?;
    // Last: from here on frames come.
    sh(&format!("ip link set {} master {bridge}", port(number)))?;
    follow(&control, &quality)
}

/// Takes over what the file says, as often as it changes.
fn follow(control: &Path, quality: &Mutex<LinkQuality>) -> Result<()> {
    let changed = || fs::metadata(control).and_then(|meta| meta.modified()).ok();
    let mut seen: Option<SystemTime> = None;
    loop {
        let now = changed();
        if now != seen {
            *lock(quality) = read(control)?;
            seen = now;
        }
        pause(LOOK);
    }
}

fn read(control: &Path) -> Result<LinkQuality> {
    let text = fs::read(control).with_context(|| format!("{}", control.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}", control.display()))
}

/// One direction: a thread that reads and judges, and one that writes when the time has come.
struct Lane {
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    quality: Arc<Mutex<LinkQuality>>,
    side: fn(&LinkQuality) -> Quality,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    frames: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    more: Condvar,
}

impl Lane {
    fn between(
        from: Arc<SyncDevice>,
        to: Arc<SyncDevice>,
        quality: Arc<Mutex<LinkQuality>>,
        side: fn(&LinkQuality) -> Quality,
    ) -> Lane {
        Lane {
            from,
            to,
            quality,
            side,
            waiting: Arc::default(),
        }
    }

    fn start(self, name: &str) -> Result<()> {
        let (waiting, to) = (self.waiting.clone(), self.to.clone());
        let spawn = |name: String, job: Box<dyn FnOnce() -> io::Result<()> + Send>| {
            std::thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = job() {
                    // A device is gone, so the link is: half of a relay would be a fault that nobody asked for.
                    eprintln!("{error}");
                    std::process::exit(1);
                }
            })
        };
        spawn(format!("{name}-in"), Box::new(move || self.take()))?;
        spawn(format!("{name}-out"), Box::new(move || waiting.give(&to)))?;
        Ok(())
    }

    fn take(self) -> io::Result<()> {
        let (mut judge, mut seed) = (Judge::default(), [0; 8]);
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let mut state = u64::from_le_bytes(seed) | 1;
        let mut frame = vec![0; FRAME];
        loop {
            let length = self.from.recv(&mut frame)?;
            let quality = (self.side)(&lock(&self.quality));
            let Some(at) = judge.release(&quality, Instant::now(), || chance(&mut state)) else {
                continue;
            };
            let mut frames = lock(&self.waiting.frames);
            if frames.len() < WAITING {
                frames.push_back((at, frame[..length].to_vec()));
                self.waiting.more.notify_one();
            }
        }
    }
}

impl Waiting {
    fn give(&self, to: &SyncDevice) -> io::Result<()> {
        loop {
            let mut frames = lock(&self.frames);
            let Some((at, _)) = frames.front() else {
                let woken = self.more.wait(frames);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (_, frame) = frames.pop_front().expect("it was looked at under this lock");
                drop(frames);
                to.send(&frame)?;
            } else {
                let woken = self.more.wait_timeout(frames, left);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process changes a file or a device, and tells nobody; no task runs on these threads"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The next number from 0 up to 1 (xorshift64*): which packets are lost is no secret.
fn chance(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #[test]
    fn chances_are_spread_evenly() {
        let mut state = 42;
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let chance = super::chance(&mut state);
            assert!((0.0..1.0).contains(&chance));
            tenths[(chance * 10.0) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|count| (800..1200).contains(count)),
            "{tenths:?}"
        );
    }
}
