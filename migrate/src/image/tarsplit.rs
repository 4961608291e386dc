//! One layer's tar, put together from the files of an engine's own store, without asking the engine.
//!
//! The classic overlay2 store unpacks layers and throws their tars away, but keeps what is not in the files themselves
//! (headers, padding, order) so that it can give back the same bytes:
//!
//! ```text
//! image/overlay2/layerdb/sha256/CHAIN_ID/diff               digest of the tar
//!                                       /cache-id           CACHE, 64 digits
//!                                       /tar-split.json.gz  a line each: bytes as they are, or "here comes file NAME"
//! overlay2/CACHE/diff/                                      the files
//! ```
//!
//! An engine asked to save an image writes all of it to a temporary folder first; this reads one layer, once.
//! Nobody here checks the bytes: the reader knows the layer's digest, and hashes what it gets.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::Deserialize;

use super::identity::{Digest, chain_ids};

/// Longest line; padding and long names come as base64.
const MAX_LINE: u64 = 8 << 20;
/// Longest of the small files.
const MAX_SMALL: u64 = 256;
/// Bytes that are gathered before they go out.
const BUFFER: usize = 256 << 10;

/// Why a layer cannot be had this way. Another way may do.
#[derive(Debug, thiserror::Error)]
pub enum TarSplitError {
    /// The question names no layer.
    #[error("there is no layer {which} among {layers}")]
    NoSuchLayer {
        /// The layer that was asked for.
        which: usize,
        /// How many there are.
        layers: usize,
    },
    /// A file of the store cannot be read.
    #[error("cannot read {path} in the engine's image store: {source}")]
    Read {
        /// Below the engine's data directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of the store is not what it should be.
    #[error("{path} in the engine's image store {what}")]
    Odd {
        /// Below the engine's data directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tar cannot be written; its reader may have gone.
    #[error("cannot write the layer: {0}")]
    Write(#[source] io::Error),
}

/// A layer of an image that the store holds.
#[derive(Debug)]
pub struct Archive {
    split: File,
    split_path: PathBuf,
    files: OwnedFd,
}

impl Archive {
    /// Finds layer `which` of the image with these layers (lowest first) below the engine's data directory.
    ///
    /// # Errors
    /// The store does not hold it, or not in this form.
    pub fn open(engine_root: &Path, diff_ids: &[Digest], which: usize) -> Result<Self, TarSplitError> {
        let (Some(diff_id), Some(chain_id)) = (diff_ids.get(which), chain_ids(diff_ids).get(which).copied())
        else {
            let layers = diff_ids.len();
            return Err(TarSplitError::NoSuchLayer { which, layers });
        };
        let folder = Path::new("image/overlay2/layerdb/sha256").join(chain_id.hex());
        let root = store(engine_root)?;
        let diff_path = folder.join("diff");
        if small(&root, &diff_path)? != diff_id.to_string() {
            return Err(odd(&diff_path, "names another layer"));
        }
        let cache_path = folder.join("cache-id");
        let cache = small(&root, &cache_path)?;
        if cache.len() != 64 || !cache.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(odd(&cache_path, "is no name of a folder"));
        }
        let split_path = folder.join("tar-split.json.gz");
        let split = beneath(&root, &split_path, OFlags::empty()).map_err(read_error(&split_path))?;
        let files_path = Path::new("overlay2").join(cache).join("diff");
        let files = beneath(&root, &files_path, OFlags::DIRECTORY).map_err(read_error(&files_path))?;
        Ok(Self {
            split: split.into(),
            split_path,
            files,
        })
    }

    /// Writes the tar.
    ///
    /// # Errors
    /// The store changed or is damaged; or `out` takes no more.
    pub fn write_to(self, out: &mut dyn Write) -> Result<(), TarSplitError> {
        let mut out = BufWriter::with_capacity(BUFFER, out);
        let mut lines = BufReader::new(GzDecoder::new(self.split));
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .map_err(|source| TarSplitError::Read {
                    path: self.split_path.clone(),
                    source,
                })?;
            if read == 0 {
                return out.flush().map_err(TarSplitError::Write);
            }
            let entry: Entry =
                serde_json::from_slice(&line).map_err(|_| odd(&self.split_path, "is no list of entries"))?;
            match entry.kind {
                // Empty files, folders and links have no bytes.
                1 if entry.size == 0 => {}
                1 => copy_file(&self.files, &entry, &self.split_path, &mut out)?,
                2 => {
                    let bytes = entry
                        .payload
                        .as_deref()
                        .and_then(decode)
                        .ok_or_else(|| odd(&self.split_path, "has a segment without its bytes"))?;
                    out.write_all(&bytes).map_err(TarSplitError::Write)?;
                }
                _ => return Err(odd(&self.split_path, "has an entry of an unknown kind")),
            }
        }
    }
}

/// The bytes of an image's config, as the store keeps them below the engine's data directory. Whoever reads them hashes
/// them.
///
/// # Errors
/// The store does not hold it, or not in this form.
pub fn config(engine_root: &Path, digest: &Digest) -> Result<File, TarSplitError> {
    let path = Path::new("image/overlay2/imagedb/content/sha256").join(digest.hex());
    let file = beneath(&store(engine_root)?, &path, OFlags::NONBLOCK).map_err(read_error(&path))?;
    Ok(file.into())
}

fn store(engine_root: &Path) -> Result<OwnedFd, TarSplitError> {
    openat(
        CWD,
        engine_root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(read_error(Path::new("")))
}

/// A line. `position` and a file's check sum are of no use here.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    /// Base64, where the name is not UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

impl Entry {
    fn path(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let bytes = match (&self.name_raw, &self.name) {
            (Some(raw), _) => decode(raw)?,
            (None, Some(name)) => name.clone().into_bytes(),
            (None, None) => return None,
        };
        let start = bytes.iter().position(|byte| *byte != b'/')?;
        Some(std::ffi::OsString::from_vec(bytes[start..].to_vec()).into())
    }
}

fn copy_file(
    files: &OwnedFd,
    entry: &Entry,
    split_path: &Path,
    out: &mut impl Write,
) -> Result<(), TarSplitError> {
    let path = entry
        .path()
        .ok_or_else(|| odd(split_path, "has a file without a name"))?;
    let file = beneath(files, &path, OFlags::NONBLOCK).map_err(read_error(&path))?;
    let mut bytes = File::from(file).take(entry.size);
    let mut buffer = vec![0; BUFFER];
    let mut left = entry.size;
    while left > 0 {
        let count = match bytes.read(&mut buffer) {
            Ok(0) => return Err(odd(&path, "is shorter than it was")),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(TarSplitError::Read { path, source }),
        };
        out.write_all(&buffer[..count]).map_err(TarSplitError::Write)?;
        left -= count as u64;
    }
    Ok(())
}

/// A layer's files are from an image that anyone may have made: no link leads out.
fn beneath(folder: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(
        folder,
        path,
        flags | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn small(root: &OwnedFd, path: &Path) -> Result<String, TarSplitError> {
    let file = beneath(root, path, OFlags::empty()).map_err(read_error(path))?;
    let mut text = String::new();
    File::from(file)
        .take(MAX_SMALL)
        .read_to_string(&mut text)
        .map_err(|source| TarSplitError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(text.trim().to_owned())
}

fn decode(base64: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).ok()
}

fn read_error(path: &Path) -> impl FnOnce(rustix::io::Errno) -> TarSplitError {
    let path = path.to_owned();
    move |errno| TarSplitError::Read {
        path,
        source: errno.into(),
    }
}

fn odd(path: &Path, what: &'static str) -> TarSplitError {
    TarSplitError::Odd {
        path: path.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with one layer: a file, a file in a folder whose name is not UTF-8, a hole of padding.
    fn store(dir: &Path, lines: &str) -> Vec<Digest> {
        use std::os::unix::ffi::OsStrExt;
        let digest = Digest([7; 32]);
        let folder = dir.join("image/overlay2/layerdb/sha256").join(digest.hex());
        let cache = "c".repeat(64);
        let files = dir.join("overlay2").join(&cache).join("diff");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(files.join("d")).unwrap();
        std::fs::write(files.join("a"), "hello").unwrap();
        std::fs::write(files.join("d").join(std::ffi::OsStr::from_bytes(b"\xff")), "raw").unwrap();
        std::os::unix::fs::symlink("/etc", files.join("out")).unwrap();
        std::fs::write(folder.join("diff"), digest.to_string()).unwrap();
        std::fs::write(folder.join("cache-id"), cache).unwrap();
        let gz = File::create(folder.join("tar-split.json.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(gz, flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        gz.finish().unwrap();
        vec![digest]
    }

    fn read(lines: &str) -> Result<Vec<u8>, TarSplitError> {
        let dir = tempfile::tempdir().unwrap();
        let layers = store(dir.path(), lines);
        let mut out = Vec::new();
        Archive::open(dir.path(), &layers, 0)?.write_to(&mut out)?;
        Ok(out)
    }

    #[test]
    fn bytes_and_files_come_in_order() {
        let lines = r#"{"type":2,"payload":"PDE+","position":0}
{"type":1,"name":"./a","size":5,"payload":"AAAA","position":1}
{"type":2,"payload":"PDI+","position":2}
{"type":1,"name":"d","payload":null,"position":3}
{"type":1,"name_raw":"ZC//","size":3,"payload":"AAAA","position":4}
{"type":2,"payload":"PDM+","position":5}
"#;
        assert_eq!(read(lines).unwrap(), b"<1>hello<2>raw<3>");
    }

    #[test]
    fn what_is_no_such_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let absent = Archive::open(dir.path(), &[Digest([1; 32])], 0);
        assert!(matches!(absent, Err(TarSplitError::Read { .. })));
        let beyond = Archive::open(dir.path(), &[Digest([1; 32])], 1);
        assert!(matches!(
            beyond,
            Err(TarSplitError::NoSuchLayer { which: 1, layers: 1 })
        ));
        let layers = store(dir.path(), "");
        let cache = dir
            .path()
            .join("image/overlay2/layerdb/sha256")
            .join(layers[0].hex())
            .join("cache-id");
        std::fs::write(cache, "../../etc").unwrap();
        let escaped = Archive::open(dir.path(), &layers, 0);
        assert!(matches!(escaped, Err(TarSplitError::Odd { .. })));
    }

    #[test]
    fn what_leads_out_or_is_damaged_is_an_error() {
        for line in [
            r#"{"type":1,"name":"out/hostname","size":1}"#,
            r#"{"type":1,"name":"../diff/a","size":1}"#,
            r#"{"type":1,"name":"a","size":6}"#,
            r#"{"type":1,"size":6}"#,
            r#"{"type":1,"name":"/","size":6}"#,
            r#"{"type":3}"#,
            r#"{"type":2,"payload":"?"}"#,
            r#"{"type":2}"#,
            "half",
        ] {
            let outcome = read(line);
            assert!(
                matches!(
                    outcome,
                    Err(TarSplitError::Odd { .. } | TarSplitError::Read { .. })
                ),
                "{line}"
            );
        }
    }
}
