//! Containers: made, started, looked at, stopped, committed, removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, DeviceRequest, HealthConfig, HostConfig,
    Mount, MountPoint, MountType, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CommitContainerOptions, CreateContainerOptions, InspectContainerOptions, ListContainersOptions,
    RemoveContainerOptions,
};

use super::error::{call, found, status};
use super::{Docker, EngineError, Image, answer};
use crate::gate;
use crate::recreate::ContainerSpec;

/// The least memory reservation that engines take.
const MIN_RESERVATION: u64 = 6 << 20;

/// A container as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Whether its first process runs (paused counts as running).
    pub running: bool,
    /// Whether it is frozen.
    pub paused: bool,
    /// Its first process, while it runs.
    pub pid: Option<u32>,
    /// Its address on the engine's network, while it runs.
    pub address: Option<IpAddr>,
    /// Where it listens there, if not on the port that its service declares.
    pub port: Option<u16>,
    /// Engine id of its image.
    pub image: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Exit code, once it has run and stopped.
    pub exit_code: Option<i64>,
    /// When it was last started, RFC 3339; absent when never.
    pub started_at: Option<String>,
    /// Paths that its image declares as volumes, as written there.
    pub declared_volumes: BTreeSet<String>,
    /// The volumes that are mounted into it.
    pub volumes: Vec<MountedVolume>,
}

/// A volume in a container. What is bound from elsewhere, or lies in memory, is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// The engine's name of it; 64 hex digits when nobody has given it one.
    pub name: String,
    /// Where the container sees it.
    pub destination: String,
    /// Where its files lie on this machine, if the engine keeps it there.
    pub source: PathBuf,
    /// The engine's driver of it; `local` keeps it as a directory.
    pub driver: String,
    /// Whether the container may write to it.
    pub is_writable: bool,
}

/// A container that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its first process.
    pub pid: u32,
    /// Its address on the engine's network.
    pub address: Option<IpAddr>,
    /// Where it listens there, if not on the port that its service declares.
    pub port: Option<u16>,
}

impl Docker {
    /// Creates a container and gives its id. Nothing runs yet.
    ///
    /// # Errors
    /// The engine refuses: the name is taken, the image is absent, a limit is not supported.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let options = CreateContainerOptions {
            name: Some(spec.name.clone()),
            ..Default::default()
        };
        let created = self
            .client()
            .create_container(Some(options), body(spec))
            .await
            .map_err(call("create"))?;
        Ok(created.id)
    }

    /// Starts a container and gives its first process and its address.
    ///
    /// # Errors
    /// The engine refuses, or the container exited before it could be looked at; or a process of an earlier run of it is
    /// still there, which an engine that was killed and started again does not see.
    pub async fn start(&self, id: &str) -> Result<Started, EngineError> {
        use bollard::query_parameters::StartContainerOptions;
        self.see_leftovers_exit(&self.expect(id, "start").await?.id)
            .await?;
        self.client()
            .start_container(id, None::<StartContainerOptions>)
            .await
            .map_err(call("start"))?;
        let container = self.expect(id, "start").await?;
        let pid = container.pid.ok_or(EngineError::Answer {
            action: "start",
            what: "a process: the container exited at once, see its log",
        })?;
        Ok(Started {
            pid,
            address: container.address,
            port: container.port,
        })
    }

    /// Looks at a container by id or name; `None` when the engine answers that there is none.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn inspect(&self, id_or_name: &str) -> Result<Option<Container>, EngineError> {
        let asked = self
            .client()
            .inspect_container(id_or_name, None::<InspectContainerOptions>);
        let answer = answer(asked, || self.silent()).await?;
        found("inspect", answer)?.map(container).transpose()
    }

    /// All containers, running or not, that carry these labels (a label without a value matches
    /// any value), by name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list(&self, labels: &[(&str, Option<&str>)]) -> Result<Vec<Container>, EngineError> {
        let wanted = labels
            .iter()
            .map(|(key, value)| value.map_or_else(|| (*key).to_owned(), |value| format!("{key}={value}")))
            .collect();
        let filters = HashMap::from([("label".to_owned(), wanted)]);
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..Default::default()
        };
        let summaries = self
            .client()
            .list_containers(Some(options))
            .await
            .map_err(call("list"))?;
        let mut containers = Vec::with_capacity(summaries.len());
        for id in summaries.into_iter().filter_map(|summary| summary.id) {
            // One may be removed between the two questions.
            containers.extend(self.inspect(&id).await?);
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// Makes an image `repo:tag` of a stopped container. Not frozen first: it must not run.
    ///
    /// `entrypoint` and `cmd` are the container's real ones: its own begin with the gate if it has one.
    ///
    /// # Errors
    /// The engine refuses, or cannot show the image it made.
    pub async fn commit(
        &self,
        id: &str,
        repo: &str,
        tag: &str,
        entrypoint: &[String],
        cmd: &[String],
    ) -> Result<Image, EngineError> {
        let options = CommitContainerOptions {
            container: Some(id.to_owned()),
            repo: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
            pause: false,
            ..Default::default()
        };
        // In the body, not as Dockerfile `changes`: there an empty entrypoint would mean the container's own.
        let config = ContainerConfig {
            entrypoint: Some(entrypoint.to_vec()),
            cmd: Some(cmd.to_vec()),
            ..Default::default()
        };
        let made = self
            .bulk()
            .commit_container(options, config)
            .await
            .map_err(call("commit"))?;
        self.image(&made.id).await?.ok_or(EngineError::NotFound {
            action: "commit",
            what: made.id,
        })
    }

    /// Removes a container and its anonymous volumes. One that is gone already is fine.
    ///
    /// # Errors
    /// The engine refuses (it runs and `force` is false) or does not answer.
    pub async fn remove(&self, id: &str, force: bool) -> Result<(), EngineError> {
        let options = RemoveContainerOptions {
            v: true,
            force,
            link: false,
        };
        match self.client().remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            // Another removal of it is on its way.
            Err(error)
                if status(&error) == Some(409) && error.to_string().contains("already in progress") =>
            {
                Ok(())
            }
            Err(error) => Err(call("remove")(error)),
        }
    }

    pub(super) async fn expect(&self, id: &str, action: &'static str) -> Result<Container, EngineError> {
        self.inspect(id).await?.ok_or_else(|| EngineError::NotFound {
            action,
            what: id.to_owned(),
        })
    }
}

/// The request that makes a container of a spec. What is not named here is the engine's default.
fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let gpus = DeviceRequest {
        count: Some(i64::from(spec.gpu)),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..Default::default()
    };
    let host = HostConfig {
        // The wanted policy is blosm's work: an engine would start what was handed over.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        memory: spec.memory_limit.map(signed),
        // No swap beyond the limit.
        memory_swap: spec.memory_limit.map(signed),
        memory_reservation: (spec.memory_reservation >= MIN_RESERVATION)
            .then(|| signed(spec.memory_reservation)),
        cpu_shares: Some(signed((spec.cpu_milli * 1024 / 1000).max(2))),
        nano_cpus: spec
            .cpu_limit_milli
            .map(|milli| signed(milli.saturating_mul(1_000_000))),
        pids_limit: Some(signed(spec.pids)),
        mounts: spec.gate.as_deref().map(|folder| vec![gate_mount(folder)]),
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        device_requests: (spec.gpu > 0).then(|| vec![gpus]),
        ..Default::default()
    };
    let (entrypoint, cmd) = first_program(spec);
    ContainerCreateBody {
        hostname: Some(spec.hostname.clone()),
        image: Some(spec.image.clone()),
        // Explicit even when empty: an absent one would be the image's own.
        entrypoint: Some(entrypoint),
        cmd: Some(cmd),
        env: Some(spec.env.clone()),
        user: Some(spec.user.clone()),
        working_dir: Some(spec.working_dir.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        stop_signal: Some(spec.stop_signal.name().to_owned()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        host_config: Some(host),
        ..Default::default()
    }
}

/// Entrypoint and command: the gate's, with the real ones spelled out for it, if there is a gate.
fn first_program(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    let real = (spec.entrypoint.clone(), spec.cmd.clone());
    match &spec.gate {
        None => real,
        Some(_) => (vec![gate::ENTRYPOINT.to_owned()], [real.0, real.1].concat()),
    }
}

fn gate_mount(folder: &Path) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(folder.display().to_string()),
        target: Some(gate::MOUNT_POINT.to_owned()),
        read_only: Some(true),
        ..Default::default()
    }
}

fn container(inspect: ContainerInspectResponse) -> Result<Container, EngineError> {
    let id = inspect.id.ok_or(EngineError::Answer {
        action: "inspect",
        what: "an id",
    })?;
    let state = inspect.state.unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let started_at = state
        .started_at
        .filter(|at| !at.is_empty() && !at.starts_with("0001-"));
    let pid = state
        .pid
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| running && *pid > 0);
    let networks = inspect
        .network_settings
        .and_then(|settings| settings.networks)
        .unwrap_or_default();
    let address = networks
        .values()
        .find_map(|endpoint| endpoint.ip_address.as_deref()?.parse().ok())
        .filter(|_| running);
    let config = inspect.config.unwrap_or_default();
    let mounts = inspect.mounts.unwrap_or_default().into_iter();
    Ok(Container {
        id,
        name: inspect
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        running,
        paused: state.paused.unwrap_or(false),
        pid,
        address,
        port: None,
        image: inspect.image.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        exit_code: state.exit_code.filter(|_| !running && started_at.is_some()),
        started_at,
        declared_volumes: config.volumes.unwrap_or_default().into_iter().collect(),
        volumes: mounts.filter_map(volume).collect(),
    })
}

fn volume(mount: MountPoint) -> Option<MountedVolume> {
    (mount.typ.as_deref() == Some("volume")).then(|| MountedVolume {
        name: mount.name.unwrap_or_default(),
        destination: mount.destination.unwrap_or_default(),
        source: mount.source.unwrap_or_default().into(),
        driver: mount.driver.unwrap_or_default(),
        is_writable: mount.rw.unwrap_or(false),
    })
}
