//! Building a container from our own declaration, and refusing an image that says otherwise.
//!
//! Nothing of a container's description crosses the wire. Both ends name entrypoint, command,
//! environment, user and directory explicitly, from the pinned base and their own declaration. An
//! engine still merges what an image's config adds (environment, volumes, exposed ports, labels,
//! health checks), so a committed image from a peer is run only if its config adds nothing:
//! [`check_committed_config`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::image::Identity;
use crate::service::{Service, StopSignal, Volumes};

mod config;

pub use config::{ConfigFile, ImageConfig, NotAConfig};

/// Layers that an image may have: engines stop at 125, and the next commits need room.
pub const MAX_LAYERS: usize = 120;
/// Label of the network (chain id, first 8 hex digits or whole).
pub const LABEL_NETWORK: &str = "io.blosm.network";
/// Label of the session id, 64 hex digits.
pub const LABEL_SESSION: &str = "io.blosm.session";
/// Label of the service's name.
pub const LABEL_SERVICE: &str = "io.blosm.service";

/// The base that a service pins, as far as building containers needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Config digest and layers.
    pub identity: Identity,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// How its containers run.
    pub config: ImageConfig,
}

/// Everything about one container of a session. Built only by [`ContainerSpec::build`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Name in the engine; see [`container_name`].
    pub name: String,
    /// The session's short id.
    pub hostname: String,
    /// What to run, as this engine knows it: the base or a committed image.
    pub image: String,
    /// Explicit, never the image's own.
    pub entrypoint: Vec<String>,
    /// Explicit.
    pub cmd: Vec<String>,
    /// `NAME=value`, the base's with the declaration's over it.
    pub env: Vec<String>,
    /// Explicit.
    pub user: String,
    /// Explicit.
    pub working_dir: String,
    /// The base's labels and ours.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop.
    pub stop_signal: StopSignal,
    /// Soft memory floor, bytes.
    pub memory_reservation: u64,
    /// Memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// Weight against others, thousandths of a core.
    pub cpu_milli: u64,
    /// Processor limit, thousandths of a core.
    pub cpu_limit_milli: Option<u64>,
    /// GPUs.
    pub gpu: u32,
    /// Processes and threads.
    pub pids: u64,
    /// Host folder of its gate ([`crate::gate::GateFolder`]); with one it waits there before it runs. None unless set.
    pub gate: Option<PathBuf>,
}

/// Why no container can be built from a base.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Neither entrypoint nor command.
    #[error("image of service {service:?} has neither ENTRYPOINT nor CMD: build it with one")]
    NothingToRun {
        /// Service name.
        service: String,
    },
    /// Anonymous volumes hold state, and the declaration does not say what becomes of it.
    #[error(
        "image of service {service:?} declares VOLUME {path}: declare volumes = \"copy\" to have it moved with the container, or \"ignore\" to start with an empty one wherever it comes"
    )]
    Volume {
        /// Service name.
        service: String,
        /// The first such path.
        path: String,
    },
    /// The base is so deep that no session could move.
    #[error("image of service {service:?} has {layers} layers, at most {max} can be run", max = MAX_LAYERS)]
    TooDeep {
        /// Service name.
        service: String,
        /// Number of layers.
        layers: usize,
    },
    /// The image's stop signal is none that blosm can send.
    #[error("image of service {service:?} has STOPSIGNAL {signal:?}: set stop.signal in its declaration")]
    StopSignal {
        /// Service name.
        service: String,
        /// As the image has it.
        signal: String,
    },
}

/// Which part of a committed image is not what our declaration gives. The source's fault, always.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigMismatch {
    /// No config at all.
    #[error("the committed image's config cannot be read")]
    Unreadable,
    /// A part of the config differs.
    #[error("the committed image has another {0} than our declaration gives")]
    Differs(&'static str),
    /// A label that is neither the base's nor ours.
    #[error("the committed image carries a label of its own")]
    Label,
    /// The layers do not start with the base's.
    #[error("the committed image does not stand on the pinned base")]
    NotOnBase,
    /// Deeper than engines take.
    #[error("the committed image has more than {max} layers", max = MAX_LAYERS)]
    TooDeep,
}

/// Name of a session's container: short session id, epoch and the attempt that made it.
#[must_use]
pub fn container_name(session: &[u8; 32], epoch: u64, attempt: &[u8; 16]) -> String {
    format!(
        "blosm-{}-{epoch}-{}",
        short_id(session),
        hex::encode(&attempt[..4])
    )
}

/// The epoch in the name of a session's container.
#[must_use]
pub fn epoch_of(container: &str) -> Option<u64> {
    container.split('-').nth(2)?.parse().ok()
}

/// First 12 hex digits of a session id: its hostname.
#[must_use]
pub fn short_id(session: &[u8; 32]) -> String {
    hex::encode(&session[..6])
}

/// The three labels of a session's container.
#[must_use]
pub fn session_labels(network: &str, session: &[u8; 32], service: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_NETWORK.to_owned(), network.to_owned()),
        (LABEL_SESSION.to_owned(), hex::encode(session)),
        (LABEL_SERVICE.to_owned(), service.to_owned()),
    ])
}

impl ContainerSpec {
    /// Builds the one container that this declaration and this base give. `image` is what the
    /// engine shall run: the base's own reference, or a committed image on it that was checked.
    ///
    /// # Errors
    /// When the base cannot be run or moved; says what to change.
    pub fn build(
        service: &Service,
        base: &Base,
        image: &str,
        labels: BTreeMap<String, String>,
        name: String,
        hostname: String,
    ) -> Result<Self, SpecError> {
        let config = &base.config;
        let of = || service.name.clone();
        if config.entrypoint.is_empty() && config.cmd.is_empty() {
            return Err(SpecError::NothingToRun { service: of() });
        }
        if service.volumes == Volumes::Refuse
            && let Some(path) = config.volumes.first()
        {
            return Err(SpecError::Volume {
                service: of(),
                path: path.clone(),
            });
        }
        let layers = base.identity.diff_ids.len();
        if layers > MAX_LAYERS {
            return Err(SpecError::TooDeep {
                service: of(),
                layers,
            });
        }
        let mut all_labels = config.labels.clone();
        all_labels.extend(labels);
        let needs = &service.resources;
        Ok(Self {
            name,
            hostname,
            image: image.to_owned(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            env: environment(service, config),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            labels: all_labels,
            stop_signal: stop_signal(service, config)?,
            memory_reservation: needs.memory,
            memory_limit: needs.memory_limit,
            cpu_milli: needs.cpu_milli,
            cpu_limit_milli: needs.cpu_limit_milli,
            gpu: needs.gpu,
            pids: needs.pids,
            gate: None,
        })
    }
}

/// The base's environment in its order, the declaration's values over it, new names after it.
fn environment(service: &Service, base: &ImageConfig) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(base.env.len() + service.env.len());
    for entry in &base.env {
        let name = entry.split('=').next().unwrap_or(entry);
        if !service.env.contains_key(name) {
            env.push(entry.clone());
        }
    }
    env.extend(service.env.iter().map(|(name, value)| format!("{name}={value}")));
    env
}

/// Where an engine mounts the anonymous volumes of an image that declares these paths: absolute, each once, in order.
#[must_use]
pub fn volume_paths<'a>(declared: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let paths: BTreeSet<String> = declared.into_iter().map(|path| clean(path)).collect();
    paths.into_iter().collect()
}

/// The volumes that move with a container of the service, by their paths, in the order in which streams number them.
#[must_use]
pub fn copied_volumes(service: &Service, base: &ImageConfig) -> Vec<String> {
    match service.volumes {
        Volumes::Copy => volume_paths(&base.volumes),
        Volumes::Refuse | Volumes::Ignore => Vec::new(),
    }
}

/// A path as an engine cleans it: from the root, without `.`, `..` and empty names.
#[must_use]
pub fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// The signal that asks a container of the service to stop: the declared one, else the base image's own, else SIGTERM.
///
/// # Errors
/// The image's signal is none that blosm can send.
pub fn stop_signal(service: &Service, base: &ImageConfig) -> Result<StopSignal, SpecError> {
    match (service.stop.signal, &base.stop_signal) {
        (Some(declared), _) => Ok(declared),
        (None, None) => Ok(StopSignal::SigTerm),
        (None, Some(text)) => StopSignal::parse(text).ok_or_else(|| SpecError::StopSignal {
            service: service.name.clone(),
            signal: text.clone(),
        }),
    }
}

/// Whether a committed image adds nothing to what our own declaration and base give: the last check
/// before an image that came from a peer is given to the engine.
///
/// # Errors
/// The first part that differs.
pub fn check_committed_config(
    committed: &[u8],
    service: &Service,
    base: &Base,
) -> Result<(), ConfigMismatch> {
    let file = ConfigFile::parse(committed).map_err(|_| ConfigMismatch::Unreadable)?;
    let (theirs, ours) = (&file.config, &base.config);
    let same = |equal: bool, part| {
        if equal {
            Ok(())
        } else {
            Err(ConfigMismatch::Differs(part))
        }
    };
    same(file.architecture == base.architecture, "architecture")?;
    same(file.os == base.os, "operating system")?;
    if !file.diff_ids.starts_with(&base.identity.diff_ids) {
        return Err(ConfigMismatch::NotOnBase);
    }
    if file.diff_ids.len() > MAX_LAYERS {
        return Err(ConfigMismatch::TooDeep);
    }
    same(theirs.entrypoint == ours.entrypoint, "entrypoint")?;
    same(theirs.cmd == ours.cmd, "command")?;
    let set = |env: &[String]| env.iter().cloned().collect::<BTreeSet<_>>();
    same(
        set(&theirs.env) == set(&environment(service, ours)),
        "environment",
    )?;
    same(theirs.user == ours.user, "user")?;
    same(
        directory(&theirs.working_dir) == directory(&ours.working_dir),
        "working directory",
    )?;
    same(theirs.volumes == ours.volumes, "set of volumes")?;
    same(theirs.exposed_ports == ours.exposed_ports, "set of exposed ports")?;
    same(theirs.on_build == ours.on_build, "set of build triggers")?;
    same(theirs.shell == ours.shell, "shell")?;
    // Containers of ours run with the check switched off, so that is what a commit of one carries.
    let no_check = matches!(theirs.healthcheck.as_slice(), [] | [_])
        && theirs.healthcheck.iter().all(|word| word == "NONE");
    same(no_check, "health check")?;
    let signal = |text: &Option<String>| match text {
        None => Some(StopSignal::SigTerm),
        Some(text) => StopSignal::parse(text),
    };
    let expect = stop_signal(service, ours).ok();
    same(
        signal(&theirs.stop_signal) == expect || theirs.stop_signal == ours.stop_signal,
        "stop signal",
    )?;
    for (key, value) in &theirs.labels {
        let is_ours = [LABEL_NETWORK, LABEL_SESSION, LABEL_SERVICE].contains(&key.as_str());
        if !is_ours && ours.labels.get(key) != Some(value) {
            return Err(ConfigMismatch::Label);
        }
    }
    Ok(())
}

/// Engines write the root directory as nothing or as `/`.
fn directory(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

#[cfg(test)]
mod tests;
