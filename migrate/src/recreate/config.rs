//! What an image's config says, read from an engine's answer or from the config's own bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::image::Digest;

/// The part of an image's config that says how its containers run; absent and empty are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// First words of the command line.
    pub entrypoint: Vec<String>,
    /// Last words of the command line.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// User and group, as the image writes them.
    pub user: String,
    /// Directory to start in.
    pub working_dir: String,
    /// Signal name or number.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths that engines would make anonymous volumes of.
    pub volumes: BTreeSet<String>,
    /// `PORT/PROTOCOL` each.
    pub exposed_ports: BTreeSet<String>,
    /// Build triggers.
    pub on_build: Vec<String>,
    /// Shell for shell-form commands.
    pub shell: Vec<String>,
    /// The health check's words; empty when there is none, `NONE` when it is switched off.
    pub healthcheck: Vec<String>,
}

/// An image config as its bytes say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// How containers of it run.
    pub config: ImageConfig,
    /// Uncompressed layer digests, lowest first.
    pub diff_ids: Vec<Digest>,
}

/// The bytes are not an image config.
#[derive(Debug, thiserror::Error)]
#[error("not an image config: {0}")]
pub struct NotAConfig(#[from] serde_json::Error);

impl ConfigFile {
    /// Reads a config's bytes. Unknown keys are passed over: engines differ in them.
    ///
    /// # Errors
    /// When it is not JSON of that form.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAConfig> {
        let raw: RawFile = serde_json::from_slice(bytes)?;
        let diff_ids = raw
            .rootfs
            .diff_ids
            .iter()
            .map(|id| {
                id.parse()
                    .map_err(<serde_json::Error as serde::de::Error>::custom)
            })
            .collect::<Result<_, serde_json::Error>>()?;
        Ok(Self {
            architecture: raw.architecture,
            os: raw.os,
            config: raw.config.unwrap_or_default().into(),
            diff_ids,
        })
    }
}

#[derive(Deserialize)]
struct RawFile {
    architecture: String,
    os: String,
    config: Option<RawConfig>,
    rootfs: RawRoot,
}

#[derive(Deserialize)]
struct RawRoot {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    on_build: Option<Vec<String>>,
    shell: Option<Vec<String>>,
    healthcheck: Option<RawHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealth {
    #[serde(default)]
    test: Option<Vec<String>>,
}

impl From<RawConfig> for ImageConfig {
    fn from(raw: RawConfig) -> Self {
        let keys = |map: Option<BTreeMap<String, serde::de::IgnoredAny>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        Self {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            user: raw.user.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
            labels: raw.labels.unwrap_or_default(),
            volumes: keys(raw.volumes),
            exposed_ports: keys(raw.exposed_ports),
            on_build: raw.on_build.unwrap_or_default(),
            shell: raw.shell.unwrap_or_default(),
            healthcheck: raw.healthcheck.and_then(|check| check.test).unwrap_or_default(),
        }
    }
}
