//! Layers straight from an engine's store, for whoever can read it: an engine's save reads the whole
//! image, however little of it is wanted.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use futures::future::BoxFuture;

use super::export::{self, ExportError, Exported, LayerFile, Part, Wanted, hash_into, layer_path};
use super::identity::{Digest, Identity};
use crate::docker::Docker;
use crate::recreate::ConfigFile;

/// Reads an engine's store. Nothing that it gives is believed before it is hashed.
pub trait LayerSource: Debug + Send + Sync {
    /// The bytes of that image config; `None` when they cannot be read.
    fn config(&self, digest: Digest) -> BoxFuture<'_, Option<Vec<u8>>>;

    /// The uncompressed tar of the last of these layers, which stand on each other, lowest first: a
    /// file or a pipe, read to its end. `None` when it cannot be read.
    fn layer(&self, chain: Vec<Digest>) -> BoxFuture<'_, Option<File>>;
}

/// Exports the wanted layers of an image: from `source` if it has all of them, else with
/// [`export`](export::export).
///
/// # Errors
/// As [`export`](export::export); that `source` fails is none.
pub async fn export_layers(
    docker: &Docker,
    reference: &str,
    identity: &Identity,
    wanted: &Wanted,
    spool: &Path,
    source: Option<&dyn LayerSource>,
) -> Result<Exported, ExportError> {
    if let Some(source) = source {
        if let Some(exported) = read(source, identity, wanted, spool).await {
            return Ok(exported);
        }
        tracing::debug!(
            reference,
            "the engine's store can't be read directly; saving the image"
        );
    }
    export::export(docker, reference, wanted, spool).await
}

async fn read(
    source: &dyn LayerSource,
    identity: &Identity,
    wanted: &Wanted,
    spool: &Path,
) -> Option<Exported> {
    let diff_ids = &identity.diff_ids;
    if let Wanted::Only(set) = wanted
        && !set.iter().all(|diff_id| diff_ids.contains(diff_id))
    {
        return None;
    }
    let config = source.config(identity.config_digest).await?;
    let sound = Digest::of(&config) == identity.config_digest
        && ConfigFile::parse(&config).is_ok_and(|config| config.diff_ids == *diff_ids);
    if !sound {
        return None;
    }
    let mut layers = BTreeMap::new();
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let keep = match wanted {
            Wanted::Nothing => false,
            Wanted::Only(set) => set.contains(diff_id),
            Wanted::All => true,
        };
        if keep && !layers.contains_key(diff_id) {
            let from = source.layer(diff_ids[..=index].to_vec()).await?;
            let (expected, spool) = (*diff_id, spool.to_owned());
            let written = tokio::task::spawn_blocking(move || write(from, expected, &spool)).await;
            match written {
                Ok(Ok(Some(file))) => layers.insert(*diff_id, file),
                Ok(Ok(None)) | Err(_) => return None,
                Ok(Err(error)) => {
                    tracing::warn!(layer = %diff_id, %error, "a layer can't be copied out of the engine's store");
                    return None;
                }
            };
        }
    }
    Some(Exported {
        identity: identity.clone(),
        config,
        layers,
        descriptors: Vec::new(),
    })
}

fn write(from: File, expected: Digest, spool: &Path) -> io::Result<Option<LayerFile>> {
    let mut part = Part::create(spool)?;
    let (found, size) = hash_into(from, Some(&mut part.file))?;
    if found != expected {
        return Ok(None);
    }
    let path = part.persist(&layer_path(spool, &expected))?;
    Ok(Some(LayerFile { path, size }))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    /// A store whose layers are these, lowest first.
    #[derive(Debug)]
    struct Store {
        config: Vec<u8>,
        layers: Vec<Vec<u8>>,
        /// What it gives, which may be something else.
        given: Vec<Vec<u8>>,
    }

    impl Store {
        fn new(layers: &[&[u8]]) -> Self {
            let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.to_vec()).collect();
            let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
            let config = serde_json::json!({
                "architecture": "amd64", "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            Self {
                config: config.to_string().into_bytes(),
                given: layers.clone(),
                layers,
            }
        }

        fn identity(&self) -> Identity {
            Identity {
                config_digest: Digest::of(&self.config),
                diff_ids: self.layers.iter().map(|layer| Digest::of(layer)).collect(),
            }
        }
    }

    impl LayerSource for Store {
        fn config(&self, digest: Digest) -> BoxFuture<'_, Option<Vec<u8>>> {
            Box::pin(async move { (digest == Digest::of(&self.config)).then(|| self.config.clone()) })
        }

        fn layer(&self, chain: Vec<Digest>) -> BoxFuture<'_, Option<File>> {
            Box::pin(async move {
                assert_eq!(chain, self.identity().diff_ids[..chain.len()]);
                let bytes = self.given.get(chain.len() - 1)?;
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(bytes).unwrap();
                file.rewind().unwrap();
                Some(file)
            })
        }
    }

    #[tokio::test]
    async fn wanted_layers_come_from_the_store() {
        let spool = tempfile::tempdir().unwrap();
        let store = Store::new(&[b"one", b"two", b"three"]);
        let identity = store.identity();
        let upper = identity.diff_ids[1..].iter().copied().collect();
        for (wanted, count) in [(Wanted::Nothing, 0), (Wanted::Only(upper), 2), (Wanted::All, 3)] {
            let exported = read(&store, &identity, &wanted, spool.path()).await.unwrap();
            assert_eq!((exported.layers.len(), &exported.config), (count, &store.config));
            for (diff_id, file) in exported.layers {
                assert_eq!(Digest::of(&std::fs::read(file.path).unwrap()), diff_id);
            }
        }
    }

    #[tokio::test]
    async fn what_is_damaged_or_missing_there_is_left_to_the_engine() {
        let spool = tempfile::tempdir().unwrap();
        let sound = || Store::new(&[b"one", b"two"]);
        let identity = sound().identity();
        let mut damaged = sound();
        damaged.given[1] = b"twx".to_vec();
        let mut short = sound();
        short.given.truncate(1);
        let mut other = sound();
        other.config.push(b' ');
        for store in [damaged, short, other] {
            assert_eq!(
                read(&store, &identity, &Wanted::All, spool.path()).await,
                None,
                "{store:?}"
            );
        }
        let foreign = Wanted::Only([Digest::of(b"elsewhere")].into());
        assert_eq!(read(&sound(), &identity, &foreign, spool.path()).await, None);
        // Whole, verified layers may stay; nothing else does.
        for entry in std::fs::read_dir(spool.path()).unwrap().flatten() {
            assert_eq!(entry.path(), layer_path(spool.path(), &Digest::of(b"one")));
        }
    }
}
