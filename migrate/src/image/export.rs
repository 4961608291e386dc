//! Streaming an image out of an engine, keeping the layers that are wanted.
//!
//! A save is one tar; engines differ in its layout (`<id>/layer.tar`, some of them symbolic links to
//! others; or OCI blobs, possibly compressed). Nothing is believed by its name: every entry is hashed
//! uncompressed as it passes, and what hashes to a wanted layer digest is that layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::identity::{Digest, Identity};
use crate::docker::Docker;
use crate::recreate::ConfigFile;

/// Pieces of the save between the socket and the parser; when full, the engine waits.
const PIECES: usize = 16;
/// Largest entry that is kept as a document (manifest, config, index).
const MAX_DOCUMENT: u64 = 4 << 20;
/// Most bytes of documents in one save.
const MAX_DOCUMENTS: usize = 64 << 20;
/// Most entries in one save.
const MAX_ENTRIES: usize = 10_000;
/// Bytes copied at a time.
const BUFFER: usize = 256 * 1024;

/// Which layers to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// None: only to learn what the image is.
    Nothing,
    /// These; the export fails when one is not in the image.
    Only(BTreeSet<Digest>),
    /// All.
    All,
}

/// A layer's uncompressed tar on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Where.
    pub path: PathBuf,
    /// Its length, bytes.
    pub size: u64,
}

/// How a store keeps one layer: the blob that an OCI manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type, which tells the compression.
    pub media_type: String,
    /// Digest of the blob as stored.
    pub digest: Digest,
    /// Length of the blob as stored, bytes.
    pub size: u64,
}

/// What came out of a save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// What the image is.
    pub identity: Identity,
    /// Its config, byte for byte.
    pub config: Vec<u8>,
    /// The layers that were kept.
    pub layers: BTreeMap<Digest, LayerFile>,
    /// How the store keeps the layers, lowest first; empty when the save has no OCI manifest.
    pub descriptors: Vec<Descriptor>,
}

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The engine broke off, or knows no such image.
    #[error("the engine's save failed: {0}")]
    Engine(#[source] bollard::errors::Error),
    /// The save cannot be read, or the spool not written.
    #[error("save of an image: {0}")]
    Io(#[from] io::Error),
    /// A document of the save is missing or not what it must be.
    #[error("the engine's save has no usable {0}")]
    Document(&'static str),
    /// A layer's bytes are not what the config says.
    #[error("the engine's save is damaged: a layer is not the {expected} that its config names")]
    Damaged {
        /// What the config names.
        expected: Digest,
    },
    /// A wanted layer is not part of the image.
    #[error("the image has no layer {0}")]
    NoSuchLayer(Digest),
    /// The save breaks a limit.
    #[error("the engine's save has too many {0}")]
    TooMuch(&'static str),
    /// The simulated runtime has no image bytes.
    #[error("the sim runtime has no image to export")]
    NoImages,
    /// The reading thread ended by itself.
    #[error("reading the save was broken off")]
    BrokenOff,
}

/// Saves `reference` and keeps the wanted layers as files in `spool`, named by their digests.
///
/// # Errors
/// The engine's save fails or is not what it must be; nothing is left in the spool then but whole,
/// verified layers.
pub async fn export(
    docker: &Docker,
    reference: &str,
    wanted: &Wanted,
    spool: &Path,
) -> Result<Exported, ExportError> {
    let (send, receive) = mpsc::channel::<Bytes>(PIECES);
    let (wanted, spool) = (wanted.clone(), spool.to_owned());
    let parser = tokio::task::spawn_blocking(move || read_save(Pieces::new(receive), &wanted, &spool));
    let mut save = std::pin::pin!(docker.bulk().export_image(reference));
    while let Some(piece) = save.next().await {
        let piece = piece.map_err(ExportError::Engine)?;
        // The parser ends early only with an error, which the join below reports.
        if send.send(piece).await.is_err() {
            break;
        }
    }
    drop(send);
    parser.await.map_err(|_| ExportError::BrokenOff)?
}

/// The receiving end of a channel of bytes, as a reader for a blocking thread.
pub(crate) struct Pieces {
    receive: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Pieces {
    pub(crate) fn new(receive: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receive,
            current: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receive.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let piece = self.current.split_to(buffer.len().min(self.current.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SaveManifest {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<OciDescriptor>,
}

#[derive(Deserialize)]
struct OciManifest {
    layers: Vec<OciDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// What was seen of a save so far.
#[derive(Default)]
struct Save {
    documents: BTreeMap<String, Vec<u8>>,
    document_bytes: usize,
    links: BTreeMap<String, String>,
    /// Uncompressed digest of every entry that is no document.
    digests: BTreeMap<String, Digest>,
    kept: BTreeMap<Digest, LayerFile>,
}

fn read_save(reader: impl Read, wanted: &Wanted, spool: &Path) -> Result<Exported, ExportError> {
    let mut save = Save::default();
    let mut archive = tar::Archive::new(reader);
    for (index, entry) in archive.entries()?.enumerate() {
        if index >= MAX_ENTRIES {
            return Err(ExportError::TooMuch("entries"));
        }
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => save.take(path, entry, wanted, spool)?,
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name()?.ok_or(ExportError::Document("link"))?;
                let hard = entry.header().entry_type() == tar::EntryType::Link;
                let base = if hard {
                    Path::new("")
                } else {
                    Path::new(&path).parent().unwrap_or(Path::new(""))
                };
                save.links.insert(path.clone(), resolve(base, &target));
            }
            _ => {}
        }
    }
    save.finish(wanted)
}

/// Joins without touching any file system: the result is only ever compared with entry names.
fn resolve(base: &Path, target: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in base.join(target).components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

impl Save {
    fn take(
        &mut self,
        path: String,
        mut entry: impl Read,
        wanted: &Wanted,
        spool: &Path,
    ) -> Result<(), ExportError> {
        let mut head = Vec::with_capacity(4);
        (&mut entry).take(4).read_to_end(&mut head)?;
        // Only documents begin with a brace or bracket, but a layer may too: its first bytes are a
        // file name. So what does not parse is a layer after all.
        if matches!(head.first(), Some(b'{' | b'[')) {
            let mut bytes = head;
            (&mut entry).take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
            if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
                self.document_bytes += bytes.len();
                if self.document_bytes > MAX_DOCUMENTS {
                    return Err(ExportError::TooMuch("documents"));
                }
                self.documents.insert(path, bytes);
                return Ok(());
            }
            return self.take_layer(path, bytes.as_slice().chain(entry), wanted, spool);
        }
        match head.as_slice() {
            [0x1f, 0x8b, ..] => {
                let plain = flate2::read::MultiGzDecoder::new(head.as_slice().chain(entry));
                self.take_layer(path, plain, wanted, spool)
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let plain = zstd::stream::read::Decoder::new(head.as_slice().chain(entry))?;
                self.take_layer(path, plain, wanted, spool)
            }
            _ => self.take_layer(path, head.as_slice().chain(entry), wanted, spool),
        }
    }

    fn take_layer(
        &mut self,
        path: String,
        plain: impl Read,
        wanted: &Wanted,
        spool: &Path,
    ) -> Result<(), ExportError> {
        let mut part = match wanted {
            Wanted::Nothing => None,
            Wanted::Only(_) | Wanted::All => Some(Part::create(spool)?),
        };
        let (digest, size) = hash_into(plain, part.as_mut().map(|part| &mut part.file))?;
        self.digests.insert(path, digest);
        let keep = match wanted {
            Wanted::Nothing => false,
            Wanted::Only(set) => set.contains(&digest),
            // Small files that are no layer (version notes) are dropped when all is known.
            Wanted::All => true,
        };
        if let Some(part) = part.filter(|_| keep && !self.kept.contains_key(&digest)) {
            let path = part.persist(&layer_path(spool, &digest))?;
            self.kept.insert(digest, LayerFile { path, size });
        }
        Ok(())
    }

    fn document(&self, path: &str) -> Option<&[u8]> {
        let path = self.links.get(path).map_or(path, String::as_str);
        self.documents.get(path).map(Vec::as_slice)
    }

    fn finish(mut self, wanted: &Wanted) -> Result<Exported, ExportError> {
        let unusable = ExportError::Document;
        let manifest = self.document("manifest.json").ok_or(unusable("manifest.json"))?;
        let [manifest]: [SaveManifest; 1] =
            serde_json::from_slice(manifest).map_err(|_| unusable("manifest.json of exactly one image"))?;
        let config = self
            .document(&manifest.config)
            .ok_or(unusable("image config"))?
            .to_vec();
        let diff_ids = ConfigFile::parse(&config)
            .map_err(|_| unusable("image config"))?
            .diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(unusable("list of layers"));
        }
        for (expected, path) in diff_ids.iter().zip(&manifest.layers) {
            let path = self.links.get(path).unwrap_or(path);
            if self.digests.get(path) != Some(expected) {
                return Err(ExportError::Damaged { expected: *expected });
            }
        }
        if let Wanted::Only(set) = wanted
            && let Some(missing) = set.iter().find(|digest| !self.kept.contains_key(digest))
        {
            return Err(ExportError::NoSuchLayer(*missing));
        }
        let known: BTreeSet<_> = diff_ids.iter().copied().collect();
        self.kept.retain(|digest, file| {
            let layer = known.contains(digest);
            if !layer {
                let _ = std::fs::remove_file(&file.path);
            }
            layer
        });
        let descriptors = self.descriptors(diff_ids.len()).unwrap_or_default();
        let identity = Identity {
            config_digest: Digest::of(&config),
            diff_ids,
        };
        Ok(Exported {
            identity,
            config,
            layers: self.kept,
            descriptors,
        })
    }

    /// The store's own layer descriptors, when the save carries an OCI manifest of one image.
    fn descriptors(&self, layers: usize) -> Option<Vec<Descriptor>> {
        let index: OciIndex = serde_json::from_slice(self.document("index.json")?).ok()?;
        index
            .manifests
            .iter()
            .filter_map(|entry| {
                let digest: Digest = entry.digest.parse().ok()?;
                let bytes = self.document(&format!("blobs/sha256/{}", digest.hex()))?;
                serde_json::from_slice::<OciManifest>(bytes).ok()
            })
            .find(|manifest| manifest.layers.len() == layers)?
            .layers
            .into_iter()
            .map(|layer| {
                Some(Descriptor {
                    media_type: layer.media_type,
                    digest: layer.digest.parse().ok()?,
                    size: layer.size,
                })
            })
            .collect()
    }
}

/// Where a layer lies in a spool.
#[must_use]
pub fn layer_path(spool: &Path, diff_id: &Digest) -> PathBuf {
    spool.join(format!("{}.layer", diff_id.hex()))
}

/// A file that is not whole yet; removed when dropped.
pub(crate) struct Part {
    pub(crate) file: BufWriter<File>,
    path: PathBuf,
    persisted: bool,
}

impl Part {
    pub(crate) fn create(spool: &Path) -> io::Result<Self> {
        let mut unique = [0; 8];
        getrandom::fill(&mut unique).map_err(io::Error::other)?;
        let path = spool.join(format!("{}.part", hex::encode(unique)));
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER, file),
            path,
            persisted: false,
        })
    }

    pub(crate) fn persist(mut self, to: &Path) -> io::Result<PathBuf> {
        self.file.flush()?;
        std::fs::rename(&self.path, to)?;
        self.persisted = true;
        Ok(to.to_owned())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// SHA-256 and length of all that comes, written through where there is somewhere to write.
pub(crate) fn hash_into(
    mut from: impl Read,
    mut to: Option<&mut BufWriter<File>>,
) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..len]);
        if let Some(to) = to.as_mut() {
            to.write_all(&buffer[..len])?;
        }
        size += len as u64;
    }
    Ok((Digest(hasher.finalize().into()), size))
}

/// SHA-256 of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<Digest> {
    Ok(hash_into(File::open(path)?, None)?.0)
}

#[cfg(test)]
mod tests;
