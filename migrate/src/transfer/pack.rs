//! Verified chunks on disk, so that nothing verified is sent again: not after a cut, not after a
//! restart of either node, not in another attempt.
//!
//! Two files that only grow: the chunks, and an index of (hash, offset, length). Nothing is synced and
//! no order of writing is needed: what is found again counts as held only once its bytes have the hash,
//! so a torn tail, a lost page or a second writer cost those chunks and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::chunk::{Chunk, Cutter, MAX_CHUNK};

/// Bytes of an index entry: hash, offset, length.
const ENTRY: usize = 32 + 8 + 4;
/// Most entries that are read from an index.
const MAX_ENTRIES: u64 = 1 << 22;

/// A folder's verified chunks.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    chunks: File,
    limit: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    index: File,
    places: HashMap<[u8; 32], Place>,
    /// Where the next chunk goes.
    end: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    len: u32,
}

impl Pack {
    /// Opens the pack of a folder, or makes one, of at most `limit` bytes of chunks.
    ///
    /// # Errors
    /// Its files cannot be opened or read.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        let path = folder.join("chunks.pack");
        let open = |path: &Path| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
        };
        let chunks = open(&path)?;
        let end = chunks.metadata()?.len();
        let mut index = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(folder.join("chunks.index"))?;
        let whole = (index.metadata()?.len() / ENTRY as u64).min(MAX_ENTRIES) * ENTRY as u64;
        // A torn last entry would shift all that follow.
        index.set_len(whole)?;
        let mut entries = Vec::new();
        (&mut index).take(whole).read_to_end(&mut entries)?;
        let places = entries
            .chunks_exact(ENTRY)
            .filter_map(|entry| read_entry(entry).filter(|(_, place)| place.lies_within(end)))
            .collect();
        Ok(Self {
            path,
            chunks,
            limit,
            inner: Mutex::new(Inner { index, places, end }),
        })
    }

    /// The file with the chunks.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the chunk seems to be here; only [`get`](Self::get) is certain.
    #[must_use]
    pub fn holds(&self, chunk: &Chunk) -> bool {
        let inner = self.lock();
        inner
            .places
            .get(&chunk.hash)
            .is_some_and(|place| place.len == chunk.len)
    }

    /// The chunk's bytes, verified. What is not what it should be is forgotten.
    #[must_use]
    pub fn get(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let place = *self.lock().places.get(&chunk.hash)?;
        if place.len != chunk.len {
            return None;
        }
        let mut bytes = vec![0; place.len as usize];
        let read = self.chunks.read_exact_at(&mut bytes, place.offset);
        if read.is_ok() && chunk.fits(&bytes) {
            return Some(bytes);
        }
        self.lock().places.remove(&chunk.hash);
        None
    }

    /// Keeps a chunk that was verified. False when the pack is full: it can be used, but is not kept.
    ///
    /// # Errors
    /// The pack cannot be written.
    pub fn put(&self, chunk: &Chunk, bytes: &[u8]) -> io::Result<bool> {
        let mut inner = self.lock();
        if inner.places.contains_key(&chunk.hash) {
            return Ok(true);
        }
        let offset = inner.end;
        if offset + u64::from(chunk.len) > self.limit {
            return Ok(false);
        }
        self.chunks.write_all_at(bytes, offset)?;
        let place = Place {
            offset,
            len: chunk.len,
        };
        inner.end += u64::from(chunk.len);
        inner.index.write_all(&write_entry(&chunk.hash, place))?;
        inner.places.insert(chunk.hash, place);
        Ok(true)
    }

    /// Looks for wanted chunks in what is here anyway, and keeps those that it finds; stops when it has
    /// all, or when `go_on`, which hears how many bytes were looked through, says no. Returns how many it
    /// found. A seed that cannot be read is passed over.
    ///
    /// # Errors
    /// The pack cannot be written.
    pub fn seed<R: Read>(
        &self,
        wanted: &[Chunk],
        seeds: impl IntoIterator<Item = R>,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> io::Result<u64> {
        let mut missing: HashSet<Chunk> = wanted
            .iter()
            .filter(|chunk| !chunk.is_zero() && !self.holds(chunk))
            .copied()
            .collect();
        let (mut found, mut looked) = (0, 0);
        for seed in seeds {
            let mut cutter = Cutter::new(seed);
            loop {
                if missing.is_empty() {
                    return Ok(found);
                }
                let bytes = match cutter.next() {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a seed can't be read");
                        break;
                    }
                };
                looked += bytes.len() as u64;
                if !go_on(looked) {
                    return Ok(found);
                }
                let chunk = Chunk::of(bytes);
                if missing.remove(&chunk) && self.put(&chunk, bytes)? {
                    found += 1;
                }
            }
        }
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panics while it holds the index")
    }
}

impl Place {
    fn lies_within(&self, end: u64) -> bool {
        self.len > 0
            && self.len as usize <= MAX_CHUNK
            && self
                .offset
                .checked_add(u64::from(self.len))
                .is_some_and(|to| to <= end)
    }
}

fn write_entry(hash: &[u8; 32], place: Place) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..32].copy_from_slice(hash);
    entry[32..40].copy_from_slice(&place.offset.to_le_bytes());
    entry[40..].copy_from_slice(&place.len.to_le_bytes());
    entry
}

fn read_entry(entry: &[u8]) -> Option<([u8; 32], Place)> {
    let (hash, rest) = entry.split_first_chunk::<32>()?;
    let (offset, len) = rest.split_first_chunk::<8>()?;
    let place = Place {
        offset: u64::from_le_bytes(*offset),
        len: u32::from_le_bytes(len.try_into().ok()?),
    };
    Some((*hash, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(seed: u32) -> (Chunk, Vec<u8>) {
        let bytes: Vec<u8> = blake3::hash(&seed.to_le_bytes()).as_bytes().repeat(10);
        (Chunk::of(&bytes), bytes)
    }

    fn filled(folder: &Path) -> Pack {
        let pack = Pack::open(folder, 1 << 20).unwrap();
        for seed in 0..10 {
            let (chunk, bytes) = chunk(seed);
            assert!(pack.put(&chunk, &bytes).unwrap());
        }
        pack
    }

    fn held(pack: &Pack) -> Vec<u32> {
        (0..10)
            .filter(|seed| pack.get(&chunk(*seed).0) == Some(chunk(*seed).1))
            .collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_reopen() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path()));
        let again = filled(folder.path());
        assert_eq!(held(&again), Vec::from_iter(0..10));
        assert_eq!(
            std::fs::metadata(again.path()).unwrap().len(),
            10 * 320,
            "nothing is kept twice"
        );
        let other = Chunk {
            len: 319,
            ..chunk(0).0
        };
        assert!(!again.holds(&other) && again.get(&other).is_none());
    }

    #[test]
    fn torn_tails_and_damage_cost_only_what_they_hit() {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path()).path().to_owned();
        // The last chunk lacks a byte, and the index ends in the middle of an entry.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(3199)
            .unwrap();
        let index = folder.path().join("chunks.index");
        let mut file = File::options().append(true).open(&index).unwrap();
        file.write_all(&[1; ENTRY - 1]).unwrap();
        let pack = Pack::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(held(&pack), Vec::from_iter(0..9));
        let (last, bytes) = chunk(9);
        assert!(pack.put(&last, &bytes).unwrap());
        drop(pack);
        // A page in the middle was never written.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&[0; 320], 640)
            .unwrap();
        let pack = Pack::open(folder.path(), 1 << 20).unwrap();
        assert!(pack.holds(&chunk(2).0));
        assert_eq!(held(&pack), [0, 1, 3, 4, 5, 6, 7, 8, 9]);
        assert!(!pack.holds(&chunk(2).0), "damage is forgotten");
        let (lost, bytes) = chunk(2);
        assert!(pack.put(&lost, &bytes).unwrap());
        assert_eq!(held(&pack).len(), 10);
    }

    #[test]
    fn a_full_pack_keeps_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let pack = Pack::open(folder.path(), 700).unwrap();
        let kept: Vec<bool> = (0..3)
            .map(|seed| pack.put(&chunk(seed).0, &chunk(seed).1).unwrap())
            .collect();
        assert_eq!(kept, [true, true, false]);
        assert!(!pack.holds(&chunk(2).0));
    }

    #[test]
    fn seeds_are_read_until_all_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let pack = Pack::open(folder.path(), 1 << 30).unwrap();
        let mut bytes = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mut cutter = Cutter::new(bytes.as_slice());
        let mut wanted = Vec::new();
        while let Some(chunk) = cutter.next().unwrap() {
            wanted.push(Chunk::of(chunk));
        }
        struct Untouched;
        impl Read for Untouched {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("all was found before")
            }
        }
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        // The same content behind other content is found as well.
        let shifted = [vec![5; 100], bytes.clone()].concat();
        let seeds: Vec<Box<dyn Read>> = vec![
            Box::new(Broken),
            Box::new(io::Cursor::new(shifted)),
            Box::new(io::Cursor::new(bytes)),
            Box::new(Untouched),
        ];
        let found = pack.seed(&wanted, seeds, |_| true).unwrap();
        assert_eq!(found, wanted.len() as u64);
        assert!(wanted.iter().all(|chunk| pack.get(chunk).is_some()));
        assert_eq!(pack.seed(&wanted, [Untouched], |_| true).unwrap(), 0);
    }
}
