//! A private engine: its own network namespace, configuration, data and socket; gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use blosm_migrate::Docker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long an engine may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

pub(crate) struct Engine {
    dir: tempfile::TempDir,
    namespace: String,
    process: Child,
    pub(crate) docker: Docker,
}

impl Engine {
    /// Starts an engine. Panics with the reason when none can be had: the tests are then not passed.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("blosm-engine-")
            .tempdir()
            .unwrap();
        let namespace = format!(
            "blosm-t{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &namespace]);
        let launched = launch(dir.path(), &namespace);
        let process = match launched {
            Ok(process) => process,
            Err(error) => {
                run("ip", &["netns", "delete", &namespace]);
                panic!("dockerd cannot be run (install docker.io, run as root): {error}");
            }
        };
        let socket = format!("unix://{}", dir.path().join("docker.sock").display());
        let mut starting = Starting(Some((dir, namespace, process)));
        let until = Instant::now() + START;
        let docker = loop {
            match Docker::connect(&socket).await {
                Ok(docker) => break docker,
                Err(error) => {
                    let ended = starting.process().try_wait().unwrap();
                    if ended.is_some() || Instant::now() > until {
                        panic!("the private engine did not start: {error}\n{}", starting.log());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let (dir, namespace, process) = starting.0.take().unwrap();
        Self {
            dir,
            namespace,
            process,
            docker,
        }
    }

    /// A directory beside the engine's data.
    pub(crate) fn spool(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    /// Stops or continues the engine's process: alive, but not answering.
    pub(crate) fn freeze(&self, frozen: bool) {
        if !frozen {
            return signal(&self.process, Signal::CONT);
        }
        signal(&self.process, Signal::STOP);
        // Its threads stop one by one; until the last has, it may still answer.
        let stopped = waitid(WaitId::Pid(pid(&self.process)), WaitIdOptions::STOPPED).unwrap();
        assert!(stopped.is_some_and(|status| status.stopped()));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.freeze(false);
        end(self.dir.path(), &self.namespace, &mut self.process);
    }
}

/// What must be cleared up when the start fails.
struct Starting(Option<(tempfile::TempDir, String, Child)>);

impl Starting {
    fn process(&mut self) -> &mut Child {
        &mut self.0.as_mut().unwrap().2
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.0.as_ref().unwrap().0.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some((dir, namespace, mut process)) = self.0.take() {
            end(dir.path(), &namespace, &mut process);
        }
    }
}

fn launch(dir: &Path, namespace: &str) -> std::io::Result<Child> {
    let config = dir.join("daemon.json");
    // Containers that ignore their stop signal must not hold up the end of a test.
    std::fs::write(
        &config,
        r#"{"iptables":false,"ip6tables":false,"shutdown-timeout":1}"#,
    )?;
    let log = File::create(dir.join("log"))?;
    Command::new("nsenter")
        .arg(format!("--net=/var/run/netns/{namespace}"))
        .arg("dockerd")
        .arg("--config-file")
        .arg(&config)
        .arg("--data-root")
        .arg(dir.join("data"))
        .arg("--exec-root")
        .arg(dir.join("exec"))
        .arg("-p")
        .arg(dir.join("pid"))
        .arg("-H")
        .arg(format!("unix://{}", dir.join("docker.sock").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn end(dir: &Path, namespace: &str, process: &mut Child) {
    let exit = pidfd_open(pid(process), PidfdFlags::empty()).unwrap();
    signal(process, Signal::TERM);
    // Readable when it has exited.
    let ended = poll(&mut [PollFd::new(&exit, PollFlags::IN)], Some(&END));
    if !matches!(ended, Ok(1)) {
        let _ = process.kill();
    }
    let _ = process.wait();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = dir.display().to_string();
    for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if mount.starts_with(&prefix) {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
}

/// Not reaped before [`end`] waits for it, so the number stays its own.
fn pid(process: &Child) -> Pid {
    i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap()
}

fn signal(process: &Child, signal: Signal) {
    let _ = kill_process(pid(process), signal);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
