//! Images that this node has loaded into its engine under names that are not its own: pinned bases of services. Only what
//! is written down here may be removed again; what an operator has loaded is the operator's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use blosm_migrate::image::Digest;
use serde::{Deserialize, Serialize};

use crate::durable::replace;

/// Name of the file in the data directory.
const FILE: &str = "brought.json";
/// Images remembered; the oldest is forgotten first, and then stays in the engine.
const KEPT: usize = 1024;

/// One image that was brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrival {
    /// What was loaded under that name, as `sha256:HEX` of its config. A name that means something else by now is not
    /// this node's any more.
    pub(super) config_digest: String,
    /// When, in seconds since the epoch by this machine's clock.
    pub(super) unix_s: u64,
}

/// What was brought, by name, as it stands in the file.
#[derive(Debug, Clone)]
pub(crate) struct Brought {
    path: PathBuf,
    known: Arc<Mutex<BTreeMap<String, Arrival>>>,
}

impl Brought {
    /// Reads the file of the data directory. One that can't be read is logged and begun anew: its images stay.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "what this node brought into the engine can't be read; it stays there");
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "what this node brought into the engine can't be read; it stays there");
                }
                BTreeMap::new()
            }
        };
        Self {
            path,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// Writes down that `reference` was loaded here and is that image. A note that can't be written is logged: the image
    /// then is never removed.
    pub(crate) async fn remember(&self, reference: &str, config_digest: Digest) {
        let arrival = Arrival {
            config_digest: config_digest.to_string(),
            unix_s: super::unix_ms() / 1000,
        };
        {
            let mut known = self.lock();
            known.insert(reference.to_owned(), arrival);
            while known.len() > KEPT {
                let oldest = known.iter().min_by_key(|(_, arrival)| arrival.unix_s);
                let oldest = oldest.map(|(name, _)| name.clone());
                oldest.and_then(|name| known.remove(&name));
            }
        }
        self.write().await;
    }

    /// The image is gone, or its name means another one.
    pub(super) async fn forget(&self, reference: &str) {
        if self.lock().remove(reference).is_some() {
            self.write().await;
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> BTreeMap<String, Arrival> {
        self.lock().clone()
    }

    async fn write(&self) {
        let brought = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            // Held while the file is written: the last writer writes what is newest.
            let known = brought.lock();
            let bytes = serde_json::to_vec_pretty(&*known).expect("names and digests are plain data");
            replace(&brought.path, &bytes)
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(path = %self.path.display(), %error, "what was brought into the engine is not written down");
            }
            Err(error) => tracing::warn!(%error, "what was brought into the engine is not written down"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arrival>> {
        self.known
            .lock()
            .expect("nothing panics while it holds what was brought")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_brought_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let brought = Brought::open(dir.path());
        let digest = Digest::of(b"config");
        brought.remember("example/a:1", digest).await;
        brought.remember("example/b:1", digest).await;
        brought.forget("example/b:1").await;
        let again = Brought::open(dir.path()).all();
        assert_eq!(again.keys().collect::<Vec<_>>(), ["example/a:1"]);
        assert_eq!(again["example/a:1"].config_digest, digest.to_string());
        assert!(again["example/a:1"].unix_s > 0);
    }

    #[tokio::test]
    async fn a_damaged_file_gives_nothing_up_for_removal() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "[broken").unwrap();
        let brought = Brought::open(dir.path());
        assert!(brought.all().is_empty());
        brought.remember("example/a:1", Digest::of(b"a")).await;
        assert_eq!(Brought::open(dir.path()).all().len(), 1);
    }
}
