//! The demo's base image: our static service and some megabytes around it, so that its size shows on the wire.
//!
//! It is imported once, on one engine, and carried to the others by save and load: an import writes the time of day
//! into the image's configuration, so two imports of one tar are two images.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bollard::query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder};
use bytes::Bytes;
use futures::stream;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::engine::Engine;

/// The service, built for this machine by `build.rs`.
pub const COUNTER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/counter"));
/// The image's name.
pub const NAME: &str = "blosm-demo/counter:1";
/// Padding that does not compress, and padding that does, in bytes each.
const PADDING: usize = 11 * 1024 * 1024;
/// What the service needs, in the words of a Dockerfile.
const CHANGES: [&str; 4] = [
    "ENTRYPOINT [\"/counter\"]",
    "ENV DATA_DIR=/data PORT=8080",
    "EXPOSE 8080",
    "WORKDIR /data",
];
/// One piece of a stream to or from an engine.
const PIECE: usize = 256 * 1024;
/// Gigabytes over a slow link take their time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The base image, saved in a file.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Its name and tag.
    pub name: String,
    /// The tar that `docker save` wrote.
    pub tar: PathBuf,
    /// The SHA-256 of its configuration, in hex.
    pub config_digest: String,
}

impl BaseImage {
    /// Imports the demo's root file system on one engine and saves the image to `tar`.
    ///
    /// # Errors
    /// The engine refuses, or the file cannot be written.
    pub async fn build(engine: &Engine, tar: &Path) -> Result<BaseImage> {
        let root = tokio::task::spawn_blocking(root_file_system).await??;
        let root = stream::once(async move { Ok(Bytes::from(root)) });
        BaseImage::import(engine, NAME, root, tar).await
    }

    /// Imports the tar of a root file system that holds the service, and saves the image to `tar`.
    ///
    /// # Errors
    /// The engine refuses, or the file cannot be written.
    pub async fn import(
        engine: &Engine,
        image: &str,
        root: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        tar: &Path,
    ) -> Result<BaseImage> {
        let (name, tag) = image.split_once(':').context("the name has a tag")?;
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(name)
            .tag(tag)
            .changes(CHANGES.map(str::to_owned).to_vec());
        // The stream and the client share one connection: the client must live as long.
        let client = engine.client()?.with_timeout(PATIENCE);
        let root = bollard::body_try_stream(root);
        let mut lines = std::pin::pin!(client.create_image(Some(options.build()), Some(root), None));
        while let Some(line) = lines.next().await {
            line.with_context(|| format!("the engine refuses the base image {image}"))?;
        }
        save(engine, image, tar).await?;
        let path = tar.to_owned();
        let config_digest = tokio::task::spawn_blocking(move || config_digest(&path)).await??;
        Ok(BaseImage {
            name: image.to_owned(),
            tar: tar.to_owned(),
            config_digest,
        })
    }

    /// The image as a declaration pins it.
    pub fn pinned(&self) -> String {
        format!("{}@sha256:{}", self.name, self.config_digest)
    }

    /// Loads it into another engine.
    ///
    /// # Errors
    /// The engine refuses.
    pub async fn load(&self, engine: &Engine) -> Result<()> {
        load(engine, &self.tar).await
    }
}

/// `docker save`.
///
/// # Errors
/// The engine has no such image, or the file cannot be written.
pub async fn save(engine: &Engine, image: &str, tar: &Path) -> Result<()> {
    let client = engine.client()?;
    let mut file = tokio::fs::File::create(tar)
        .await
        .with_context(|| format!("{}", tar.display()))?;
    let mut pieces = std::pin::pin!(client.export_image(image));
    while let Some(piece) = pieces.next().await {
        file.write_all(&piece.with_context(|| format!("saving {image}"))?)
            .await?;
    }
    file.flush().await?;
    Ok(())
}

/// `docker load`.
///
/// # Errors
/// The engine refuses, or does not say that it loaded something: it answers 200 in any case.
pub async fn load(engine: &Engine, tar: &Path) -> Result<()> {
    let file = tokio::fs::File::open(tar)
        .await
        .with_context(|| format!("{}", tar.display()))?;
    load_from(engine, file)
        .await
        .with_context(|| format!("loading {}", tar.display()))
}

/// `docker load` of what a file or a connection gives.
///
/// # Errors
/// As [`load`].
pub async fn load_from(engine: &Engine, source: impl AsyncRead + Send + Unpin + 'static) -> Result<()> {
    let client = engine.client()?.with_timeout(PATIENCE);
    let options = ImportImageOptionsBuilder::default().build();
    let mut lines = std::pin::pin!(client.import_image_stream(options, pieces(source), None));
    let mut loaded = false;
    while let Some(line) = lines.next().await {
        let said = line?.stream.unwrap_or_default();
        if said.contains("Error unpacking image") {
            bail!("{}", said.trim());
        }
        loaded |= said.contains("Loaded image");
    }
    if loaded {
        Ok(())
    } else {
        bail!("the engine took it and loaded nothing")
    }
}

/// What a file or a connection gives, piece by piece.
pub(crate) fn pieces(
    source: impl AsyncRead + Send + Unpin + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(source, |mut source| async move {
        let mut piece = vec![0; PIECE];
        let length = source.read(&mut piece).await?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), source)))
    })
}

/// The digest of the first image's configuration in a saved tar, taken from its bytes.
///
/// # Errors
/// The tar is not what `docker save` writes.
pub fn config_digest(tar: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Saved {
        #[serde(rename = "Config")]
        config: String,
    }
    let open = || Ok::<_, anyhow::Error>(tar::Archive::new(std::fs::File::open(tar)?));
    let read = |wanted: &str| -> Result<Vec<u8>> {
        for entry in open()?.entries()? {
            let mut entry = entry?;
            if entry.path()?.to_str() == Some(wanted) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                return Ok(bytes);
            }
        }
        bail!("{} holds no {wanted}", tar.display())
    };
    let saved: Vec<Saved> = serde_json::from_slice(&read("manifest.json")?)?;
    let first = saved
        .first()
        .with_context(|| format!("{} holds no image", tar.display()))?;
    Ok(hex::encode(Sha256::digest(read(&first.config)?)))
}

/// The image's only layer. The same on every machine but for the service itself.
fn root_file_system() -> Result<Vec<u8>> {
    let mut root = Root::begin(Vec::with_capacity(2 * PADDING + COUNTER.len() + PIECE))?;
    let random = XorShift(0x2545_f491_4f6c_dd1d).random(PADDING);
    root.file("pad/random.bin", &random)?;
    let text = XorShift(0x9e37_79b9_7f4a_7c15).text(PADDING)?;
    root.file("pad/text.txt", &text)?;
    root.finish()
}

/// The tar of a root file system with the service in it.
pub(crate) struct Root<W: Write>(tar::Builder<W>);

impl<W: Write> Root<W> {
    /// Folders and the service.
    pub(crate) fn begin(to: W) -> Result<Root<W>> {
        let mut builder = tar::Builder::new(to);
        for folder in ["data/", "dev/", "etc/", "pad/", "proc/", "sys/", "tmp/"] {
            append(&mut builder, folder, tar::EntryType::Directory, 0o755, &[])?;
        }
        append(&mut builder, "counter", tar::EntryType::Regular, 0o755, COUNTER)?;
        Ok(Root(builder))
    }

    /// One more file, below `pad/`.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        append(&mut self.0, path, tar::EntryType::Regular, 0o644, bytes)
    }

    /// The tar's end.
    pub(crate) fn finish(self) -> Result<W> {
        Ok(self.0.into_inner()?)
    }
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    builder
        .append_data(&mut header, path, bytes)
        .with_context(|| format!("packing {path}"))
}

/// Marsaglia's xorshift64: incompressible, and the same every time.
pub(crate) struct XorShift(pub(crate) u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes that do not compress.
    pub(crate) fn random(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes())
            .flatten()
            .take(length)
            .collect()
    }

    /// Lines like a log's: they compress to a fraction, as program text and libraries do.
    pub(crate) fn text(&mut self, length: usize) -> Result<Vec<u8>> {
        const WORDS: [&str; 8] = [
            "road",
            "edge",
            "node",
            "car",
            "service",
            "container",
            "image",
            "ledger",
        ];
        let mut text = Vec::with_capacity(length + 64);
        while text.len() < length {
            let bits = self.next();
            let word = |shift: u32| WORDS[(bits >> shift) as usize % WORDS.len()];
            writeln!(text, "{} {} {} {}", word(0), word(8), word(16), bits >> 48)?;
        }
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_file_system_is_reproducible_and_about_24_megabytes() {
        let first = root_file_system().unwrap();
        assert_eq!(first, root_file_system().unwrap());
        assert!((22_000_000..28_000_000).contains(&first.len()), "{}", first.len());
        let mut archive = tar::Archive::new(first.as_slice());
        let counter = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|e| e.path().unwrap().ends_with("counter"));
        assert_eq!(counter.unwrap().header().mode().unwrap(), 0o755);
    }

    #[test]
    fn service_is_a_static_executable() {
        assert_eq!(&COUNTER[..4], b"\x7fELF");
        // A program header of type PT_INTERP would name a dynamic linker, which the image does not have.
        let text = String::from_utf8_lossy(COUNTER);
        assert!(!text.contains("/ld-linux") && !text.contains("/ld-musl"));
    }
}
