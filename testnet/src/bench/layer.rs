//! A container's writable layer as the engine keeps it, and the least that has to cross the link for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::figures::link_ms;
use crate::engine::Engine;

/// Zstandard's own default.
const LEVEL: i32 = 3;
const BLOCK: usize = 4096;

/// Every file of a writable layer, as it was when it was read.
pub(super) struct Layer(BTreeMap<PathBuf, Vec<u8>>);

impl Layer {
    /// Reads the layer of a container, which may run meanwhile.
    ///
    /// # Errors
    /// The engine does not say where it is, or it cannot be read.
    pub(super) async fn of(engine: &Engine, container: &str) -> Result<Layer> {
        let inspect = engine.client()?.inspect_container(container, None).await?;
        let mut driver = inspect.graph_driver.map(|driver| driver.data).unwrap_or_default();
        let upper = driver
            .remove("UpperDir")
            .context("the engine keeps no overlay for its containers")?;
        tokio::task::spawn_blocking(move || Layer::read(Path::new(&upper))).await?
    }

    fn read(top: &Path) -> Result<Layer> {
        let mut files = BTreeMap::new();
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file()
                    && let Ok(bytes) = fs::read(entry.path())
                {
                    // A file that has gone since the folder was read is not part of the layer any more.
                    let name = entry.path();
                    let name = name.strip_prefix(top).unwrap_or(&name).to_owned();
                    files.insert(name, bytes);
                }
            }
        }
        Ok(Layer(files))
    }

    /// All files together, in bytes.
    fn bytes(&self) -> u64 {
        self.0.values().map(|file| file.len() as u64).sum()
    }

    /// The size of its tar after `zstd -3`.
    fn packed(&self) -> Result<u64> {
        let mut builder = tar::Builder::new(zstd::Encoder::new(Count(0), LEVEL)?);
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice())?;
        }
        Ok(builder.into_inner()?.finish()?.0)
    }

    /// The blocks of `later` that are not what they were here.
    fn changed(&self, later: &Layer) -> Vec<u8> {
        let mut changed = Vec::new();
        for (name, bytes) in &later.0 {
            let earlier = self.0.get(name).map_or(&[][..], Vec::as_slice);
            for (index, block) in bytes.chunks(BLOCK).enumerate() {
                let start = (index * BLOCK).min(earlier.len());
                let end = (start + BLOCK).min(earlier.len());
                if block != &earlier[start..end] {
                    changed.extend_from_slice(block);
                }
            }
        }
        changed
    }
}

/// The least that has to cross the link to move a layer: what it was at the start and the blocks that were written
/// until the cut, both after `zstd -3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Floor {
    /// The layer at the start, in bytes of its files.
    pub(super) layer: u64,
    /// Its tar, compressed.
    pub(super) layer_packed: u64,
    /// What was written until the cut, in bytes of blocks.
    pub(super) changed: u64,
    /// The same, compressed.
    pub(super) changed_packed: u64,
}

impl Floor {
    /// From the layer at the start and at the cut.
    ///
    /// # Errors
    /// Never in practice: it compresses from memory to memory.
    pub(super) fn of(start: &Layer, cut: &Layer) -> Result<Floor> {
        let changed = start.changed(cut);
        Ok(Floor {
            layer: start.bytes(),
            layer_packed: start.packed()?,
            changed: changed.len() as u64,
            changed_packed: zstd::bulk::compress(&changed, LEVEL)?.len() as u64,
        })
    }

    /// The time that it takes on a link that carries so much, in milliseconds.
    pub(super) fn ms(&self, mbit: f64) -> f64 {
        link_ms(self.layer_packed + self.changed_packed, mbit)
    }
}

/// Counts what is written.
struct Count(u64);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::XorShift;

    fn layer(files: &[(&str, &[u8])]) -> Layer {
        Layer(
            files
                .iter()
                .map(|(name, bytes)| (name.into(), bytes.to_vec()))
                .collect(),
        )
    }

    #[test]
    fn only_changed_blocks_count() {
        let large = XorShift(3).random(10 * BLOCK);
        let mut written = large.clone();
        written[4 * BLOCK + 17] ^= 1;
        let start = layer(&[("large", &large), ("same", b"same"), ("gone", b"gone")]);
        let cut = layer(&[("large", &written), ("same", b"same"), ("new", b"new file")]);
        assert_eq!(start.changed(&cut).len(), BLOCK + 8);
        let grown = [&large[..], &[1; 100]].concat();
        assert_eq!(
            start
                .changed(&layer(&[("large", &grown), ("same", b"same")]))
                .len(),
            100
        );
        assert!(start.changed(&start).is_empty());
    }

    #[test]
    fn floor_is_what_is_left_after_compression() {
        let random = XorShift(5).random(100_000);
        let start = layer(&[("random", &random), ("zero", &[0; 100_000])]);
        let floor = Floor::of(&start, &layer(&[("random", &random), ("zero", &[1; 100_000])])).unwrap();
        assert_eq!((floor.layer, floor.changed), (200_000, 100_000));
        assert!((100_000..102_000).contains(&floor.layer_packed), "{floor:?}");
        assert!(floor.changed_packed < 100, "{floor:?}");
        let exact = Floor {
            layer_packed: 4_000_000,
            changed_packed: 1_000_000,
            ..floor
        };
        assert_eq!(exact.ms(40.0), 1000.0);
    }

    #[test]
    fn a_layer_is_read_with_its_folders() {
        let dir = tempfile::TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), b"123").unwrap();
        let layer = Layer::read(dir.path()).unwrap();
        assert_eq!(layer.0.keys().collect::<Vec<_>>(), [Path::new("a/b/file")]);
        assert_eq!(layer.bytes(), 3);
    }
}
