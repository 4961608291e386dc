//! A private Docker engine per host: a containerd and a dockerd of its own, with files, sockets, bridge and control
//! group of their own. The machine's engine, if it has one, is neither used nor seen.
//!
//! containerd is started here, not by dockerd: dockerd would otherwise use the machine's, if one runs. It also keeps
//! containers running while dockerd is dead, which the faults need.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::Instant;

use crate::hosts::{Namespace, ROAD};
use crate::process::{Process, tail};
use crate::shell;
use crate::state::{EngineState, State};
use crate::sweep::cgroup;

/// A cold engine on a busy machine takes a few seconds.
const START: Duration = Duration::from_secs(60);
/// An orderly stop waits for its containers' stop, which may take ten seconds each.
const STOP: Duration = Duration::from_secs(15);
/// One call of the API; loading a large image takes a while.
const CALL_SECS: u64 = 300;

/// The engine of one host.
#[derive(Clone, Debug)]
pub struct Engine {
    dir: PathBuf,
    namespace: Namespace,
    cgroup: String,
}

impl Engine {
    /// The engine of the host `number`, whether it runs or not.
    pub fn of(state: &State, number: usize) -> Engine {
        Engine {
            dir: state.host_dir(number).join("engine"),
            namespace: state.namespace(number),
            cgroup: format!("/{}/h{number}", cgroup(&state.id)),
        }
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// The socket as `docker -H` and configuration files want it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where it says what it does.
    pub fn log(&self) -> PathBuf {
        self.dir.join("dockerd.log")
    }

    /// Where it keeps images and containers.
    pub fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts what does not run of it and waits for the API.
    ///
    /// # Errors
    /// It does not answer in time; the text holds the end of its log.
    pub async fn start(&self, known: &EngineState) -> Result<EngineState> {
        std::fs::create_dir_all(&self.dir)?;
        let containerd = match known.containerd.filter(Process::alive) {
            Some(running) => running,
            None => self.start_containerd().await?,
        };
        let dockerd = match known.dockerd.filter(Process::alive) {
            Some(running) => running,
            None => self.start_dockerd()?,
        };
        let state = EngineState {
            containerd: Some(containerd),
            dockerd: Some(dockerd),
        };
        self.wait_ready(dockerd).await?;
        Ok(state)
    }

    async fn start_containerd(&self) -> Result<Process> {
        let socket = self.dir.join("containerd.sock");
        let config = self.dir.join("containerd.toml");
        // Without cri nothing of Kubernetes listens anywhere; opt would make /opt/containerd.
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{1}\"\n",
            self.dir.join("containerd").display(),
            socket.display()
        );
        std::fs::write(&config, text)?;
        // A killed one leaves its socket; waiting for the new one must not find the old.
        let _ = std::fs::remove_file(&socket);
        let log = self.dir.join("containerd.log");
        let arguments = ["--config".to_owned(), config.display().to_string()];
        let process = Process::spawn(&self.namespace, &program("containerd")?, &arguments, &log)?;
        let deadline = Instant::now() + START;
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            if !process.alive() || Instant::now() > deadline {
                bail!(
                    "containerd in {} does not answer:\n{}",
                    self.dir.display(),
                    tail(&log, 5)
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(process)
    }

    fn start_dockerd(&self) -> Result<Process> {
        let dockerd = program("dockerd")?;
        let config = self.dir.join("dockerd.json");
        std::fs::write(
            &config,
            serde_json::to_vec_pretty(&self.config(version(&dockerd)))?,
        )?;
        let pid_file = self.dir.join("dockerd.pid");
        // Its process is known to be gone, and dockerd asks no more than whether some process has that id.
        let _ = std::fs::remove_file(&pid_file);
        let _ = std::fs::remove_file(self.socket());
        let path = |name: &str| self.dir.join(name).display().to_string();
        let arguments = [
            ("--config-file", path("dockerd.json")),
            ("--containerd", path("containerd.sock")),
            ("--data-root", path("data")),
            ("--exec-root", path("exec")),
            ("--pidfile", path("dockerd.pid")),
            ("--host", self.url()),
        ];
        let arguments: Vec<String> = arguments
            .into_iter()
            .flat_map(|(k, v)| [k.to_owned(), v])
            .collect();
        Process::spawn(&self.namespace, &dockerd, &arguments, &self.log())
    }

    /// A file of its own keeps the machine's `/etc/docker/daemon.json` out.
    fn config(&self, version: Option<u32>) -> serde_json::Value {
        let mut config = serde_json::json!({
            // With systemd's driver groups would have to be slices, and systemd would own them.
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": self.cgroup,
            // Newer engines ask older runc versions for time namespaces, which those refuse.
            "features": {"time-namespaces": false},
            // A registry on a host of the road speaks plain HTTP.
            "insecure-registries": [ROAD],
        });
        // Engines before 23 derive their id from a key in /etc/docker, which would be one for all of them.
        if version.is_some_and(|major| major < 23) {
            config["deprecated-key-path"] = self.dir.join("key.json").display().to_string().into();
        }
        config
    }

    async fn wait_ready(&self, dockerd: Process) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let error = match self.client() {
                Ok(client) => match client.ping().await {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                Err(error) => format!("{error:#}"),
            };
            if !dockerd.alive() || Instant::now() > deadline {
                bail!(
                    "the engine in {} does not answer ({error}):\n{}",
                    self.dir.display(),
                    tail(&self.log(), 5)
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A client of its API.
    ///
    /// # Errors
    /// There is no socket.
    pub fn client(&self) -> Result<Docker> {
        Docker::connect_with_unix(&self.url(), CALL_SECS, bollard::API_DEFAULT_VERSION)
            .with_context(|| format!("the engine at {}", self.url()))
    }

    /// Kills its API process and leaves its containers running, as a crash does.
    pub fn kill(&self, known: &EngineState) {
        if let Some(process) = known.dockerd {
            process.end(Signal::KILL, Duration::ZERO);
        }
    }

    /// Stops it in good order: containers first.
    pub fn stop(&self, known: &EngineState) {
        for process in [known.dockerd, known.containerd].into_iter().flatten() {
            process.end(Signal::TERM, STOP);
        }
    }

    /// Its containers, running or not: what `docker ps --all` shows.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn containers(&self) -> Result<Vec<ContainerLine>> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let list = self.client()?.list_containers(Some(options)).await?;
        let mut lines: Vec<ContainerLine> = list
            .into_iter()
            .map(|c| ContainerLine {
                id: c.id.unwrap_or_default(),
                name: c
                    .names
                    .unwrap_or_default()
                    .first()
                    .map_or("", |name| name.trim_start_matches('/'))
                    .to_owned(),
                image: c.image.unwrap_or_default(),
                image_id: c.image_id.unwrap_or_default(),
                running: c.state.is_some_and(|state| state.to_string() == "running"),
                status: c.status.unwrap_or_default(),
                session: c.labels.unwrap_or_default().remove(SESSION_LABEL),
            })
            .collect();
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lines)
    }

    /// The tags of its images.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn images(&self) -> Result<Vec<String>> {
        let options = ListImagesOptionsBuilder::default().build();
        let list = self.client()?.list_images(Some(options)).await?;
        let mut tags: Vec<String> = list.into_iter().flat_map(|image| image.repo_tags).collect();
        tags.sort();
        Ok(tags)
    }

    /// The identity of an image it holds.
    ///
    /// # Errors
    /// It does not answer, or has no such image.
    pub async fn identity(&self, image: &str) -> Result<Identity> {
        let inspect = self
            .client()?
            .inspect_image(image)
            .await
            .with_context(|| format!("image {image}"))?;
        let diff_ids = inspect.root_fs.and_then(|fs| fs.layers).unwrap_or_default();
        let id = inspect.id.ok_or_else(|| anyhow!("image {image} without an id"))?;
        Ok(Identity {
            id,
            diff_ids,
            size: inspect.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
        })
    }
}

/// The label that names a container's session.
pub const SESSION_LABEL: &str = "io.blosm.session";

/// One container, as `docker ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerLine {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image it was made of.
    pub image: String,
    /// That image's id.
    pub image_id: String,
    /// Whether it runs.
    pub running: bool,
    /// The engine's words for its state.
    pub status: String,
    /// The session it belongs to, by its label.
    pub session: Option<String>,
}

/// What an image is, on whichever engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The image's id; with the classic store the digest of its configuration.
    pub id: String,
    /// The digests of its layers, lowest first.
    pub diff_ids: Vec<String>,
    /// Bytes.
    pub size: u64,
}

fn program(name: &str) -> Result<PathBuf> {
    shell::find(name).with_context(|| format!("{name} is not on the PATH: install docker.io or docker-ce"))
}

/// The major version: "Docker version 20.10.24+dfsg1, build 5d6db84" has 20.
fn version(dockerd: &Path) -> Option<u32> {
    let output = std::process::Command::new(dockerd)
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_ascii_whitespace()
        .find_map(|word| word.split_once('.')?.0.trim_start_matches('v').parse().ok())
}
