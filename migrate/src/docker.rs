//! The container engine: one concrete [`Docker`] over a Unix socket.
//!
//! What an engine says about itself is used as it is; what it says about a stop is not believed
//! until the process was seen to exit ([`exit`]). Never decide by version: the two image stores
//! behave differently at one version, so [`Store`] is read from the driver's status.
//!
//! Containers made here always have restart policy `no`, no health check of the engine's, nothing
//! published, and `no-new-privileges`; what runs in them comes from a
//! [`ContainerSpec`](crate::recreate::ContainerSpec) and from nowhere else.

pub mod containers;
pub mod error;
pub mod exit;
pub mod images;
mod listen;
pub mod listing;
mod marker;
pub mod stop;
mod sync;
pub mod usage;

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;

pub use containers::{Container, MountedVolume, Started};
pub use error::{EngineError, ImageError};
pub use exit::{ExitWatch, Opened, watch_exit};
pub use images::Image;
pub use listen::listens;
pub use listing::NamedImage;
pub use stop::Stopped;
pub use usage::{Sizes, Usage};

use crate::image::Identity;
use error::call;

/// Time in which an engine must answer a question that costs it nothing.
const ANSWER: Duration = Duration::from_secs(5);
/// Time for one ordinary call, seconds.
const CALL_SECONDS: u64 = 60;
/// Time until the first byte of a save or the end of a load: gigabytes on slow disks.
const BULK: Duration = Duration::from_secs(3600);
/// Oldest API that is spoken here (engine 19.03).
const MIN_API: (u32, u32) = (1, 40);

/// A connection to an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker {
    client: bollard::Docker,
    bulk: bollard::Docker,
    socket: String,
    info: Arc<EngineInfo>,
    /// Identities of images by engine id, where the engine does not name the config digest itself.
    identities: Arc<Mutex<HashMap<String, Identity>>>,
}

/// How an engine keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Graph drivers: an image's id is its config digest.
    Classic,
    /// containerd's content store: an image's id is its manifest digest.
    Containerd,
}

/// What an engine says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its own id.
    pub id: String,
    /// Version of the engine, for people.
    pub version: String,
    /// `amd64`, `arm64`, ...: as image configs write it.
    pub architecture: String,
    /// Which image store.
    pub store: Store,
    /// For example `overlay2`.
    pub storage_driver: String,
    /// Where it keeps its data.
    pub root_dir: PathBuf,
    /// Processors it sees.
    pub cpus: u32,
    /// Memory it sees, bytes.
    pub memory: u64,
}

impl Docker {
    /// Connects to `unix:///path` and asks the engine who it is.
    ///
    /// # Errors
    /// The socket is absent, not ours to open or not answering within five seconds, or the engine is
    /// too old; each says what to change.
    pub async fn connect(socket: &str) -> Result<Self, EngineError> {
        let path = socket
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| EngineError::BadSocket {
                socket: socket.to_owned(),
            })?;
        probe_socket(Path::new(path)).await?;
        let client = bollard::Docker::connect_with_unix(path, CALL_SECONDS, API_DEFAULT_VERSION)
            .map_err(call("connect"))?;
        let silent = || EngineError::NotAnswering {
            socket: path.to_owned(),
        };
        let version = answer(client.version(), silent).await?.map_err(call("version"))?;
        let api = version.api_version.unwrap_or_default();
        if parse_api(&api).is_none_or(|api| api < MIN_API) {
            return Err(EngineError::TooOld { api, least: MIN_API });
        }
        let info = answer(client.info(), silent).await?.map_err(call("info"))?;
        let bulk = client.clone().with_timeout(BULK);
        let info = Arc::new(EngineInfo::from(info));
        Ok(Self {
            client,
            bulk,
            socket: path.to_owned(),
            info,
            identities: Arc::default(),
        })
    }

    /// What the engine said about itself when it was connected to.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Whether the engine answers now.
    pub async fn alive(&self) -> bool {
        matches!(tokio::time::timeout(ANSWER, self.client.ping()).await, Ok(Ok(_)))
    }

    fn silent(&self) -> EngineError {
        EngineError::NotAnswering {
            socket: self.socket.clone(),
        }
    }

    /// For short calls.
    pub(crate) fn client(&self) -> &bollard::Docker {
        &self.client
    }

    /// For saves and loads.
    pub(crate) fn bulk(&self) -> &bollard::Docker {
        &self.bulk
    }
}

async fn answer<T>(
    future: impl Future<Output = T>,
    silent: impl Fn() -> EngineError,
) -> Result<T, EngineError> {
    tokio::time::timeout(ANSWER, future).await.map_err(|_| silent())
}

/// Tells apart what bollard reports as one error.
async fn probe_socket(path: &Path) -> Result<(), EngineError> {
    use std::io::ErrorKind;
    let socket = || path.display().to_string();
    match tokio::fs::metadata(path).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(EngineError::Permission { socket: socket() });
        }
        Err(_) => return Err(EngineError::SocketAbsent { socket: socket() }),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(EngineError::NotASocket { socket: socket() });
        }
        Ok(_) => {}
    }
    let silent = || EngineError::NotAnswering { socket: socket() };
    match answer(tokio::net::UnixStream::connect(path), silent).await? {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(EngineError::Permission { socket: socket() })
        }
        Err(_) => Err(silent()),
    }
}

fn parse_api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The name that image configs use for what kernels call a machine.
fn architecture(machine: &str) -> String {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i386" => "386",
        other => other,
    }
    .to_owned()
}

impl From<bollard::models::SystemInfo> for EngineInfo {
    fn from(info: bollard::models::SystemInfo) -> Self {
        let containerd = info.driver_status.iter().flatten().any(|pair| {
            pair.iter()
                .any(|word| word.starts_with("io.containerd.snapshotter"))
        });
        Self {
            id: info.id.unwrap_or_default(),
            version: info.server_version.unwrap_or_default(),
            architecture: architecture(&info.architecture.unwrap_or_default()),
            store: if containerd {
                Store::Containerd
            } else {
                Store::Classic
            },
            storage_driver: info.driver.unwrap_or_default(),
            root_dir: PathBuf::from(info.docker_root_dir.unwrap_or_default()),
            cpus: info.ncpu.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            memory: info.mem_total.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_read_from_the_driver_status() {
        let info = |status: &[&str]| bollard::models::SystemInfo {
            driver_status: Some(vec![status.iter().map(|s| (*s).to_owned()).collect()]),
            server_version: Some("29.0.0".into()),
            ..Default::default()
        };
        assert_eq!(
            EngineInfo::from(info(&["driver-type", "io.containerd.snapshotter.v1"])).store,
            Store::Containerd
        );
        assert_eq!(
            EngineInfo::from(info(&["Backing Filesystem", "extfs"])).store,
            Store::Classic
        );
    }

    #[test]
    fn machines_have_the_names_of_image_configs() {
        assert_eq!(architecture("x86_64"), "amd64");
        assert_eq!(architecture("aarch64"), "arm64");
        assert_eq!(architecture("riscv64"), "riscv64");
        assert_eq!(parse_api("1.41"), Some((1, 41)));
        assert_eq!(parse_api("x"), None);
    }

    #[tokio::test]
    async fn a_wrong_socket_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let url = |path: &Path| format!("unix://{}", path.display());
        assert!(matches!(
            Docker::connect("tcp://1.2.3.4").await,
            Err(EngineError::BadSocket { .. })
        ));
        assert!(matches!(
            Docker::connect("unix://x").await,
            Err(EngineError::BadSocket { .. })
        ));
        let absent = dir.path().join("none");
        assert!(matches!(
            Docker::connect(&url(&absent)).await,
            Err(EngineError::SocketAbsent { .. })
        ));
        assert!(matches!(
            Docker::connect(&url(&file)).await,
            Err(EngineError::NotASocket { .. })
        ));
        // Bound, but nobody accepts any more.
        let dead = dir.path().join("dead");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        assert!(matches!(
            Docker::connect(&url(&dead)).await,
            Err(EngineError::NotAnswering { .. })
        ));
    }
}
