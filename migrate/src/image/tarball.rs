//! The one tar that every engine loads: an OCI layout and a docker manifest side by side, with only
//! the layers that are missing.
//!
//! The classic store reads `manifest.json` and opens a layer only when it does not hold its chain
//! id. containerd's store reads `index.json`; a tar without it must be whole there. So both are
//! written, always. No symbolic links: newer stores refuse them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use futures::Stream;
use serde_json::json;
use tokio::sync::mpsc;

use super::export::{Descriptor, LayerFile};
use super::identity::{Digest, Identity};

/// Pieces between the writer and the socket; when full, the writer waits.
const PIECES: usize = 8;
/// Bytes of a piece.
const PIECE: usize = 256 * 1024;
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// An image of which some layers are here as files and the others at the engine already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseImage {
    /// `REPO:TAG` to load it under; an untagged image could be pruned before it is used.
    pub reference: String,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// All layers, lowest first.
    pub layers: Vec<SparseLayer>,
}

/// One layer of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseLayer {
    /// SHA-256 of the uncompressed tar.
    pub diff_id: Digest,
    /// The tar, if the engine lacks it.
    pub file: Option<LayerFile>,
    /// How the engine keeps it, where its store needs to be told (containerd's).
    pub held_as: Option<Descriptor>,
}

impl SparseImage {
    /// An image with these layers as files; the engine must hold all others.
    #[must_use]
    pub fn new(
        reference: &str,
        config: Vec<u8>,
        diff_ids: &[Digest],
        files: &BTreeMap<Digest, LayerFile>,
    ) -> Self {
        let layers = diff_ids
            .iter()
            .map(|diff_id| SparseLayer {
                diff_id: *diff_id,
                file: files.get(diff_id).cloned(),
                held_as: None,
            })
            .collect();
        Self {
            reference: reference.to_owned(),
            config,
            layers,
        }
    }

    /// Names the blobs under which a containerd store keeps the lowest layers (those of the base).
    /// Without it such an image runs but is incomplete there.
    #[must_use]
    pub fn held_as(mut self, base: &[Descriptor]) -> Self {
        for (layer, descriptor) in self.layers.iter_mut().zip(base) {
            if layer.file.is_none() {
                layer.held_as = Some(descriptor.clone());
            }
        }
        self
    }

    /// What the engine must show after the load.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            config_digest: Digest::of(&self.config),
            diff_ids: self.layers.iter().map(|layer| layer.diff_id).collect(),
        }
    }

    /// Digest of the OCI manifest that is written: the image's id on containerd's store.
    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        Digest::of(&self.manifest())
    }

    fn manifest(&self) -> Vec<u8> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| match (&layer.held_as, &layer.file) {
                (Some(held), _) => json!({
                    "mediaType": held.media_type, "digest": held.digest.to_string(), "size": held.size,
                }),
                (None, file) => json!({
                    "mediaType": LAYER_TYPE,
                    "digest": layer.diff_id.to_string(),
                    "size": file.as_ref().map_or(0, |file| file.size),
                }),
            })
            .collect();
        document(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": CONFIG_TYPE,
                "digest": Digest::of(&self.config).to_string(),
                "size": self.config.len(),
            },
            "layers": layers,
        }))
    }

    fn index(&self, manifest: &[u8]) -> Vec<u8> {
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        document(&json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST_TYPE,
                "digest": Digest::of(manifest).to_string(),
                "size": manifest.len(),
                "annotations": {
                    "io.containerd.image.name": qualified(&self.reference),
                    "org.opencontainers.image.ref.name": tag,
                },
            }],
        }))
    }

    fn save_manifest(&self) -> Vec<u8> {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| blob(layer.held_as.as_ref().map_or(&layer.diff_id, |held| &held.digest)))
            .collect();
        document(&json!([{
            "Config": blob(&Digest::of(&self.config)),
            "RepoTags": [self.reference],
            "Layers": layers,
        }]))
    }

    /// Writes the tar.
    ///
    /// # Errors
    /// A layer file cannot be read or is not as long as it was, or `to` fails.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(to);
        let manifest = self.manifest();
        let index = self.index(&manifest);
        append(&mut tar, "manifest.json", &self.save_manifest())?;
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &index)?;
        append(&mut tar, &blob(&Digest::of(&manifest)), &manifest)?;
        append(&mut tar, &blob(&Digest::of(&self.config)), &self.config)?;
        let mut written = std::collections::BTreeSet::new();
        for layer in &self.layers {
            // The same layer may stand in an image twice.
            let Some(file) = layer.file.as_ref().filter(|_| written.insert(layer.diff_id)) else {
                continue;
            };
            let open = File::open(&file.path)?;
            if open.metadata()?.len() != file.size {
                return Err(io::Error::other("a layer file has changed its length"));
            }
            tar.append_data(&mut header(file.size), blob(&layer.diff_id), open)?;
        }
        tar.into_inner()?.flush()
    }

    /// The tar as a stream, written by a thread as it is taken.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (send, receive) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let pieces = BufWriter::with_capacity(PIECE, Pieces { send: send.clone() });
            if let Err(error) = self.write(pieces) {
                // When nobody takes the pieces any more, nobody takes the error either.
                let _ = send.blocking_send(Err(error));
            }
        });
        futures::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|piece| (piece, receive))
        })
    }
}

struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.send
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn document(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value of our own making is JSON")
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), path, bytes)
}

/// The full name that containerd's store needs; short ones name no image there.
fn qualified(reference: &str) -> String {
    match reference.split_once('/') {
        None => format!("docker.io/library/{reference}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn short_names_become_full_ones() {
        for (short, full) in [
            ("x:7", "docker.io/library/x:7"),
            ("blosm/x:7", "docker.io/blosm/x:7"),
            ("localhost/x:7", "localhost/x:7"),
            ("r.example:5000/x:7", "r.example:5000/x:7"),
        ] {
            assert_eq!(qualified(short), full);
        }
    }

    #[test]
    fn only_missing_layers_are_written_and_held_ones_are_named_as_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("top");
        std::fs::write(&path, b"top layer").unwrap();
        let [base, top] = [b"base".as_slice(), b"top layer"].map(Digest::of);
        let files = BTreeMap::from([(top, LayerFile { path, size: 9 })]);
        let held = Descriptor {
            media_type: "x+gzip".into(),
            digest: Digest::of(b"gz"),
            size: 5,
        };
        let image = SparseImage::new("s/x:7", b"{}".to_vec(), &[base, top, top], &files)
            .held_as(std::slice::from_ref(&held));
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert!(
                entries
                    .insert(entry.path().unwrap().display().to_string(), content)
                    .is_none()
            );
        }
        assert_eq!(entries[&blob(&top)], b"top layer");
        assert!(!entries.contains_key(&blob(&base)) && !entries.contains_key(&blob(&held.digest)));
        let manifest: serde_json::Value =
            serde_json::from_slice(&entries[&blob(&image.manifest_digest())]).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], held.digest.to_string());
        assert_eq!(manifest["layers"][1]["size"], 9);
        let save: serde_json::Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(save[0]["RepoTags"][0], "s/x:7");
        assert_eq!(save[0]["Layers"].as_array().unwrap().len(), 3);
    }
}
