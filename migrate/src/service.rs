//! What an operator declares a service to be, and the checked form that the rest takes.
//!
//! [`Declaration`] mirrors the `[[service]]` table of `blosm.toml`; [`Declaration::validate`] turns
//! it once into a [`Service`] in base units. [`Service::declaration_hash`] is what two nodes compare
//! to know that they would run the same thing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use borsh::BorshSerialize;
use sha2::{Digest as _, Sha256};

use crate::image::Digest;

mod declaration;

pub use declaration::{
    Declaration, Health, Protocol, RequestDeclaration, ResourceDeclaration, Sharing, Stop, StopSignal,
    Volumes,
};

/// Most environment variables a declaration may set.
const MAX_ENV: usize = 256;
/// Longest value of one environment variable, bytes.
const MAX_ENV_VALUE: usize = 32 * 1024;
/// The least memory limit that engines take (their own floor).
const MIN_MEMORY_LIMIT: u64 = 6 * 1024 * 1024;
/// Largest request body that a declaration may allow: relayed requests are whole messages.
const MAX_BODY: u64 = 64 * 1024 * 1024;
/// Processes a container may have when the declaration names no number: enough for any service,
/// too few for a fork bomb to take the node down.
pub const DEFAULT_PIDS: u64 = 1024;
/// Prefix of the declaration hash, so that no other object's hash can equal it.
const HASH_DOMAIN: &[u8] = b"blosm/service-declaration/1\0";

/// What stands behind a pinned image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// `NAME[:TAG]`, for people and for engines that know images by name only.
    pub reference: String,
    /// SHA-256 of the image's config: what the image is.
    pub config_digest: Digest,
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.reference, self.config_digest)
    }
}

impl FromStr for Pinned {
    type Err = DeclarationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why| DeclarationError::Image {
            image: text.to_owned(),
            why,
        };
        let (reference, digest) = text.split_once('@').ok_or_else(|| {
            refused("it is not pinned: append @ and the config digest (`docker image inspect -f '{{.Id}}' IMAGE`)")
        })?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
        if reference.is_empty()
            || reference.len() > 255
            || !reference.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !reference.chars().all(plain)
            || reference.contains("..")
            || reference.contains("//")
        {
            return Err(refused("its name is no image reference"));
        }
        let config_digest = digest
            .parse()
            .map_err(|_| refused("its digest is not sha256: and 64 hex digits"))?;
        Ok(Self {
            reference: reference.to_owned(),
            config_digest,
        })
    }
}

/// A declaration that was checked: base units, parsed image, no illegal combination.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Name, `[a-z0-9-]{1,40}`.
    pub name: String,
    /// The pinned base image.
    pub image: Pinned,
    /// Port inside the container.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Health probe.
    pub health: Health,
    /// Needs and limits in base units.
    pub resources: Resources,
    /// Environment on top of the image's.
    pub env: BTreeMap<String, String>,
    /// True when any container can answer any request.
    pub stateless: bool,
    /// Who shares a container.
    pub sharing: Sharing,
    /// What becomes of the volumes that its image declares.
    pub volumes: Volumes,
    /// How it is stopped.
    pub stop: Stop,
    /// Idle time after which a session is released.
    pub idle_timeout: Option<Duration>,
    /// Most sessions on this node.
    pub max_sessions: Option<u32>,
    /// Limits on a request.
    pub request: RequestLimits,
}

/// Needs and limits of one container: bytes and thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize)]
pub struct Resources {
    /// Reserved memory, bytes.
    pub memory: u64,
    /// Memory limit, bytes.
    pub memory_limit: Option<u64>,
    /// Reserved processor share, thousandths of a core.
    pub cpu_milli: u64,
    /// Processor limit, thousandths of a core.
    pub cpu_limit_milli: Option<u64>,
    /// Number of GPUs.
    pub gpu: u32,
    /// Reserved GPU memory, bytes.
    pub gpu_memory: u64,
    /// Most processes and threads.
    pub pids: u64,
}

/// Limits on one request, base units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest body, bytes.
    pub max_body: u64,
    /// Time for one answer.
    pub timeout: Duration,
    /// Requests of one session in flight.
    pub concurrency: u32,
}

/// What is wrong with a declaration, and what to write instead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeclarationError {
    /// The name does not fit in a path and a label.
    #[error("service name {0:?}: use 1 to 40 characters of a-z, 0-9 and '-'")]
    Name(String),
    /// The image is not a pinned reference.
    #[error("image {image:?}: {why}; write NAME[:TAG]@sha256:CONFIG-DIGEST")]
    Image {
        /// As written.
        image: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Any other key.
    #[error("service {service:?}: {key}: {why}")]
    Key {
        /// Service name.
        service: String,
        /// Key, dotted.
        key: &'static str,
        /// What is wrong and what is allowed.
        why: &'static str,
    },
}

impl Declaration {
    /// Checks every key and converts to base units.
    ///
    /// # Errors
    /// The first key that cannot stand, with what to write instead.
    pub fn validate(&self) -> Result<Service, DeclarationError> {
        let name_ok = (1..=40).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !name_ok {
            return Err(DeclarationError::Name(self.name.clone()));
        }
        let image = self.image.parse()?;
        let refuse = |bad: bool, key, why| match bad {
            true => Err(DeclarationError::Key {
                service: self.name.clone(),
                key,
                why,
            }),
            false => Ok(()),
        };
        refuse(self.port == 0, "port", "must be 1 to 65535")?;
        refuse(
            self.sharing == Sharing::Node && !self.stateless,
            "sharing",
            "\"node\" needs stateless = true",
        )?;
        refuse(
            self.volumes == Volumes::Copy && self.stateless,
            "volumes",
            "\"copy\" is not for a stateless service, of which nothing is copied: use \"ignore\"",
        )?;
        let path = &self.health.path;
        refuse(
            !path.starts_with('/') || path.len() > 1024 || !path.bytes().all(|b| b.is_ascii_graphic()),
            "health.path",
            "must begin with '/' and hold printable ASCII without spaces, at most 1024 bytes",
        )?;
        refuse(
            self.health.interval.is_zero(),
            "health.interval",
            "must be above zero",
        )?;
        refuse(
            self.health.timeout.is_zero(),
            "health.timeout",
            "must be above zero",
        )?;
        refuse(self.health.start.is_zero(), "health.start", "must be above zero")?;
        refuse(
            self.env.len() > MAX_ENV,
            "env",
            "holds too many variables (at most 256)",
        )?;
        for (key, value) in &self.env {
            refuse(
                key.is_empty() || key.len() > 255 || key.contains(['=', '\0']),
                "env",
                "a variable's name must be 1 to 255 bytes without '='",
            )?;
            refuse(
                value.len() > MAX_ENV_VALUE || value.contains('\0'),
                "env",
                "a variable's value must be at most 32 KiB without NUL",
            )?;
        }
        let resources = self.resources.validate(&self.name)?;
        refuse(
            self.max_sessions == Some(0),
            "max_sessions",
            "must be at least 1, or absent",
        )?;
        refuse(
            self.idle_timeout == Some(Duration::ZERO),
            "idle_timeout",
            "must be above zero, or absent",
        )?;
        let max_body = self.request.max_body.as_u64();
        refuse(max_body > MAX_BODY, "request.max_body", "must be at most 64MiB")?;
        refuse(
            self.request.timeout.is_zero(),
            "request.timeout",
            "must be above zero",
        )?;
        refuse(
            self.request.concurrency == 0,
            "request.concurrency",
            "must be at least 1",
        )?;
        Ok(Service {
            name: self.name.clone(),
            image,
            port: self.port,
            protocol: self.protocol,
            health: self.health.clone(),
            resources,
            env: self.env.clone(),
            stateless: self.stateless,
            sharing: self.sharing,
            volumes: self.volumes,
            stop: self.stop.clone(),
            idle_timeout: self.idle_timeout,
            max_sessions: self.max_sessions,
            request: RequestLimits {
                max_body,
                timeout: self.request.timeout,
                concurrency: self.request.concurrency,
            },
        })
    }
}

impl ResourceDeclaration {
    fn validate(&self, service: &str) -> Result<Resources, DeclarationError> {
        let refused = |key, why| DeclarationError::Key {
            service: service.to_owned(),
            key,
            why,
        };
        let cores = "must be 0.001 to 1024 cores";
        let cpu_milli = milli(self.cpu).ok_or_else(|| refused("resources.cpu", cores))?;
        let cpu_limit_milli = match self.cpu_limit {
            Some(limit) => Some(milli(limit).ok_or_else(|| refused("resources.cpu_limit", cores))?),
            None => None,
        };
        if cpu_limit_milli.is_some_and(|limit| limit < cpu_milli) {
            return Err(refused("resources.cpu_limit", "must not be below resources.cpu"));
        }
        let memory = self.memory.as_u64();
        if memory == 0 {
            return Err(refused(
                "resources.memory",
                "must be above zero, for example \"32MiB\"",
            ));
        }
        let memory_limit = self.memory_limit.map(|limit| limit.as_u64());
        if memory_limit.is_some_and(|limit| limit < memory.max(MIN_MEMORY_LIMIT)) {
            return Err(refused(
                "resources.memory_limit",
                "must not be below resources.memory, nor below the engine's own least of 6MiB",
            ));
        }
        if self.pids == Some(0) {
            return Err(refused("resources.pids", "must be at least 1, or absent"));
        }
        Ok(Resources {
            memory,
            memory_limit,
            cpu_milli,
            cpu_limit_milli,
            gpu: self.gpu,
            gpu_memory: self.gpu_memory.as_u64(),
            pids: self.pids.unwrap_or(DEFAULT_PIDS),
        })
    }
}

/// Cores to thousandths, if they make sense.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to lie in 1..=1_024_000"
)]
fn milli(cores: f64) -> Option<u64> {
    let milli = (cores * 1000.0).round();
    (1.0..=1_024_000.0).contains(&milli).then_some(milli as u64)
}

impl Service {
    /// Hash of all that decides what runs: two nodes with one hash would build the same container.
    ///
    /// Left out are the image's name (its digest stands in) and what each node may set for itself
    /// without the container noticing: time-outs, drain, limits on requests and sessions.
    #[must_use]
    pub fn declaration_hash(&self) -> blosm_ledger::Hash {
        #[derive(BorshSerialize)]
        struct Canonical<'a> {
            name: &'a str,
            config_digest: [u8; 32],
            port: u16,
            protocol: Protocol,
            health_path: &'a str,
            resources: Resources,
            env: &'a BTreeMap<String, String>,
            stateless: bool,
            sharing: Sharing,
            volumes: Volumes,
            stop_signal: Option<StopSignal>,
        }
        let canonical = Canonical {
            name: &self.name,
            config_digest: self.image.config_digest.0,
            port: self.port,
            protocol: self.protocol,
            health_path: &self.health.path,
            resources: self.resources,
            env: &self.env,
            stateless: self.stateless,
            sharing: self.sharing,
            volumes: self.volumes,
            stop_signal: self.stop.signal,
        };
        let bytes = borsh::to_vec(&canonical).expect("writing into memory cannot fail");
        let mut hasher = Sha256::new();
        hasher.update(HASH_DOMAIN);
        hasher.update(&bytes);
        blosm_ledger::Hash(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests;
