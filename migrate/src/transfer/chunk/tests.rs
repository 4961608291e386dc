use std::io::Write;

use super::*;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; len];
    reader.fill(&mut bytes);
    bytes
}

fn chunked(bytes: &[u8]) -> Chunked {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Chunked::read(file).unwrap()
}

#[test]
fn chunks_cover_the_blob_and_keep_their_limits() {
    for len in [
        0,
        1,
        MIN_CHUNK,
        MAX_CHUNK + 1,
        BUFFER - 1,
        BUFFER,
        3 * BUFFER + 17,
    ] {
        let bytes = noise(len, 1);
        let blob = chunked(&bytes);
        assert_eq!(blob.size(), len as u64);
        assert_eq!(check(blob.size(), blob.chunks(), true), Ok(()));
        let all: Vec<u32> = (0..blob.chunks().len() as u32).collect();
        assert_eq!(blob.bytes(&all, len).unwrap().unwrap(), bytes);
        for (chunk, start) in blob.chunks.iter().zip(&blob.starts) {
            let start = usize::try_from(*start).unwrap();
            assert!(chunk.fits(&bytes[start..start + chunk.len as usize]));
        }
    }
}

#[test]
fn an_inserted_byte_changes_few_chunks() {
    let mut bytes = noise(4 << 20, 2);
    let before = chunked(&bytes);
    bytes.insert(100, 7);
    let after = chunked(&bytes);
    let known: std::collections::HashSet<_> = before.chunks().iter().collect();
    let fresh = after
        .chunks()
        .iter()
        .filter(|chunk| !known.contains(chunk))
        .count();
    assert!(fresh <= 2, "{fresh} of {}", after.chunks().len());
    assert_ne!(before.root(), after.root());
}

#[test]
fn zeros_are_told_by_their_flag_and_never_fit_a_lookup() {
    let blob = chunked(&vec![0; 3 * MAX_CHUNK + 5]);
    assert!(blob.chunks().iter().all(Chunk::is_zero));
    assert_eq!(check(blob.size(), blob.chunks(), true), Ok(()));
    let zero = Chunk::of(&[0; 9]);
    assert!(!zero.fits(&[0; 9]) && !zero.fits(&[1; 9]));
}

#[test]
fn a_root_depends_on_order_and_lengths() {
    let [a, b] = [1, 2].map(|n| Chunk {
        hash: [n; 32],
        len: 7,
    });
    assert_ne!(root(&[a, b]), root(&[b, a]));
    assert_ne!(root(&[a]), root(&[Chunk { len: 8, ..a }]));
    assert_ne!(root(&[]), *blake3::hash(&[]).as_bytes());
}

#[test]
fn impossible_lists_are_refused() {
    let chunk = |len: usize| Chunk {
        hash: [1; 32],
        len: len as u32,
    };
    let (min, max) = (MIN_CHUNK, MAX_CHUNK);
    type Row = (u64, Vec<Chunk>, bool, Result<(), ChunkListError>);
    let rows: [Row; 9] = [
        (0, vec![], true, Ok(())),
        (5, vec![chunk(5)], true, Ok(())),
        (min as u64 + 5, vec![chunk(min), chunk(5)], true, Ok(())),
        (min as u64 + 5, vec![chunk(min)], false, Ok(())),
        (min as u64 + 5, vec![chunk(min)], true, Err(ChunkListError::Cover)),
        (
            min as u64 + 5,
            vec![chunk(5), chunk(min)],
            true,
            Err(ChunkListError::Length),
        ),
        (5, vec![chunk(5), chunk(0)], true, Err(ChunkListError::Length)),
        (
            max as u64 + 1,
            vec![chunk(max + 1)],
            true,
            Err(ChunkListError::Length),
        ),
        (4, vec![chunk(5)], false, Err(ChunkListError::Cover)),
    ];
    for (row, (size, chunks, whole, expect)) in rows.into_iter().enumerate() {
        assert_eq!(check(size, &chunks, whole), expect, "row {row}");
    }
    assert_eq!(check(MAX_BLOB + 1, &[], false), Err(ChunkListError::Size));
}

#[test]
fn chunks_that_are_not_there_or_too_many_are_not_read() {
    let blob = chunked(&noise(1 << 20, 3));
    assert!(blob.bytes(&[blob.chunks().len() as u32], 1 << 20).is_none());
    assert!(blob.bytes(&[u32::MAX], 1 << 20).is_none());
    assert!(
        blob.bytes(&[0, 0], blob.chunks()[0].len as usize * 2 - 1)
            .is_none()
    );
}
