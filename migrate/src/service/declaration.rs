//! The `[[service]]` table as an operator writes it: human units, defaults, unknown keys refused.

use std::collections::BTreeMap;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// The `[[service]]` table as written. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// `[a-z0-9-]{1,40}`; the first path segment of its requests.
    pub name: String,
    /// `NAME[:TAG]@sha256:HEX`, where HEX is the digest of the image's config.
    pub image: String,
    /// TCP port that the service listens on inside its container.
    pub port: u16,
    /// What is spoken on that port.
    #[serde(default)]
    pub protocol: Protocol,
    /// How blosm asks whether it answers.
    #[serde(default)]
    pub health: Health,
    /// What it needs and what it may take.
    #[serde(default)]
    pub resources: ResourceDeclaration,
    /// Environment on top of the image's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// True when any container of it can answer any request.
    #[serde(default)]
    pub stateless: bool,
    /// Whether sessions share a container.
    #[serde(default)]
    pub sharing: Sharing,
    /// What becomes of the volumes that the image declares.
    #[serde(default)]
    pub volumes: Volumes,
    /// How it is stopped.
    #[serde(default)]
    pub stop: Stop,
    /// Time without requests after which a session is released; none by default.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// Most sessions of it on this node; no limit but the resources by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Limits on one request.
    #[serde(default)]
    pub request: RequestDeclaration,
}

/// Application protocols that the gateway can speak to a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, BorshSerialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
}

/// Which requests may share a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, BorshSerialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// One container per session.
    #[default]
    Session,
    /// One container per node for all clients; only for stateless services.
    Node,
}

/// What becomes of the volumes that an image declares (`VOLUME`): an engine makes an anonymous one of each, apart from
/// the container's own layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, BorshSerialize)]
#[serde(rename_all = "lowercase")]
pub enum Volumes {
    /// Such an image is not run: what it keeps there would be left behind.
    #[default]
    Refuse,
    /// It runs, and starts with empty volumes wherever it comes: what it keeps there can be made anew.
    Ignore,
    /// It runs, and its volumes move with it, by the live method only: a committed image holds none.
    Copy,
}

/// Health probe of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Path that answers 2xx when the service can serve.
    pub path: String,
    /// Time between probes while it starts.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Time that one probe may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Time from start to the first healthy answer, after which the start has failed.
    #[serde(with = "humantime_serde")]
    pub start: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: "/healthz".to_owned(),
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            start: Duration::from_secs(10),
        }
    }
}

/// `resources` as written, in human units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceDeclaration {
    /// Memory reserved for a container.
    pub memory: ByteSize,
    /// Hard memory limit; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Cores reserved for a container.
    pub cpu: f64,
    /// Hard limit in cores; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// GPUs that the container is given.
    pub gpu: u32,
    /// GPU memory reserved.
    pub gpu_memory: ByteSize,
    /// Most processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl Default for ResourceDeclaration {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(64),
            memory_limit: None,
            cpu: 0.1,
            cpu_limit: None,
            gpu: 0,
            gpu_memory: ByteSize::b(0),
            pids: None,
        }
    }
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Signal name; the image's own, else SIGTERM, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<StopSignal>,
    /// Time between that signal and SIGKILL.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Longest wait for requests in flight before the stop.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: None,
            grace: Duration::from_secs(2),
            drain: Duration::from_secs(1),
        }
    }
}

/// Signals that a service may ask to be stopped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "each variant is the signal of that name")]
pub enum StopSignal {
    SigTerm,
    SigInt,
    SigQuit,
    SigHup,
    SigUsr1,
    SigUsr2,
    SigWinch,
    SigKill,
}

impl StopSignal {
    /// The name as engines take it, for example `SIGTERM`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SigTerm => "SIGTERM",
            Self::SigInt => "SIGINT",
            Self::SigQuit => "SIGQUIT",
            Self::SigHup => "SIGHUP",
            Self::SigUsr1 => "SIGUSR1",
            Self::SigUsr2 => "SIGUSR2",
            Self::SigWinch => "SIGWINCH",
            Self::SigKill => "SIGKILL",
        }
    }

    /// Reads a name (`SIGTERM`, `TERM`) or the usual number (`15`) as images carry it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().trim_start_matches("SIG") {
            "TERM" | "15" => Self::SigTerm,
            "INT" | "2" => Self::SigInt,
            "QUIT" | "3" => Self::SigQuit,
            "HUP" | "1" => Self::SigHup,
            "USR1" | "10" => Self::SigUsr1,
            "USR2" | "12" => Self::SigUsr2,
            "WINCH" | "28" => Self::SigWinch,
            "KILL" | "9" => Self::SigKill,
            _ => return None,
        })
    }
}

/// `request` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestDeclaration {
    /// Largest body.
    pub max_body: ByteSize,
    /// Time that the service may take for one answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Requests of one session in flight at a time.
    pub concurrency: u32,
}

impl Default for RequestDeclaration {
    fn default() -> Self {
        Self {
            max_body: ByteSize::mib(1),
            timeout: Duration::from_secs(30),
            concurrency: 64,
        }
    }
}
