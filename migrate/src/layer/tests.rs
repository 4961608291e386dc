use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::{Clock, Stamp};
use super::content::{Blocks, Difference, Failed, Reader};
use super::op::{MAX_PIECE, Meta, Op};
use super::path::{MAX_DEPTH, MAX_PATH, RelPath};
use super::stream::{Sink, Source};

/// What a comparison told, in order.
#[derive(Default, Debug, PartialEq, Eq)]
struct Told(Vec<(char, u64, u64)>);

impl Difference for Told {
    fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(data.len() <= MAX_PIECE);
        self.0.push(('d', offset, data.len() as u64));
        Ok(())
    }

    fn hole(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0.push(('h', offset, len));
        Ok(())
    }
}

fn compare(reader: &mut Reader, file: &File, sent: &Blocks) -> (Blocks, Vec<(char, u64, u64)>) {
    let mut told = Told::default();
    let size = file.metadata().unwrap().len();
    match reader.large(file.as_fd(), size, sent, &mut told) {
        Ok(blocks) => (blocks, told.0),
        Err(Failed::Read(errno)) => panic!("{errno}"),
        Err(Failed::Write(error)) => panic!("{error}"),
    }
}

#[test]
fn only_changed_blocks_of_a_larger_file_are_told() {
    let mut reader = Reader::new();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![7; 300_000], 0).unwrap();
    let (sent, told) = compare(&mut reader, &file, &Blocks::default());
    assert_eq!(
        told,
        [('d', 0, 131_072), ('d', 131_072, 131_072), ('d', 262_144, 37_856)]
    );
    assert_eq!(compare(&mut reader, &file, &sent).1, []);
    file.write_all_at(b"x", 4096 * 3).unwrap();
    file.write_all_at(b"x", 4096 * 4).unwrap();
    file.write_all_at(&[0; 4096 * 2], 4096 * 10).unwrap();
    file.write_all_at(b"x", 299_999).unwrap();
    let (sent, told) = compare(&mut reader, &file, &sent);
    assert_eq!(
        told,
        [
            ('d', 4096 * 3, 8192),
            ('h', 4096 * 10, 8192),
            ('d', 4096 * 73, 300_000 - 4096 * 73)
        ]
    );
    assert_eq!(compare(&mut reader, &file, &sent).1, []);
}

#[test]
fn holes_are_not_read_and_zeros_are_holes() {
    let mut reader = Reader::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    let (sent, told) = compare(&mut reader, &file, &Blocks::default());
    assert_eq!(told, [('d', (1 << 40) - 4096, 4096)]);
    file.set_len(100_000).unwrap();
    file.set_len(1 << 40).unwrap();
    let (sent, told) = compare(&mut reader, &file, &sent);
    assert_eq!(told, [('h', (1 << 40) - 4096, 4096)]);
    file.write_all_at(&vec![1; 100_000], 0).unwrap();
    let (sent, _) = compare(&mut reader, &file, &sent);
    file.set_len(70_000).unwrap();
    let (shorter, told) = compare(&mut reader, &file, &sent);
    assert_eq!(told, [('d', 69_632, 368)]);
    assert_eq!(shorter.size(), 70_000);
}

#[test]
fn operations_come_back_as_they_went() {
    let path = |text: &str| RelPath::new(text.into()).unwrap();
    let meta = Meta {
        mode: 0o4755,
        xattrs: [(b"user.a".to_vec(), vec![1])].into(),
        ..Meta::default()
    };
    let ops = [
        Op::Dir {
            path: path("a/b"),
            fresh: true,
        },
        Op::DirMeta {
            path: RelPath::default(),
            meta: meta.clone(),
        },
        Op::Data {
            offset: 1,
            data: vec![1; MAX_PIECE],
        },
        Op::Done { meta },
    ];
    let mut stream = Vec::new();
    let mut sink = Sink::new(&mut stream).unwrap();
    ops.iter().for_each(|op| sink.put(op).unwrap());
    sink.end().unwrap();
    let mut from = stream.as_slice();
    let mut source = Source::new(&mut from).unwrap();
    for op in ops {
        assert_eq!(source.next().unwrap(), Some(op));
    }
    assert_eq!(source.next().unwrap(), None);
}

#[test]
fn attributes_that_must_not_cross_are_refused() {
    let with = |name: &[u8], len: usize| Op::Done {
        meta: Meta {
            xattrs: [(name.to_vec(), vec![0; len])].into(),
            ..Meta::default()
        },
    };
    assert!(with(b"user.a", 10).check().is_ok());
    assert!(with(b"security.capability", 10).check().is_ok());
    for name in [
        &b"trusted.overlay.opaque"[..],
        b"security.selinux",
        b"user.overlay.opaque",
        b"user.",
        b"user.\0",
    ] {
        assert!(with(name, 10).check().is_err(), "{}", name.escape_ascii());
    }
    assert!(with(b"user.a", 70_000).check().is_err());
}

#[test]
fn paths_have_limits() {
    assert!(RelPath::new(vec![b'x'; 255]).is_ok());
    assert!(RelPath::new(vec![b'x'; 256]).is_err());
    let deep = |depth: usize| vec!["x"; depth].join("/").into_bytes();
    assert!(RelPath::new(deep(MAX_DEPTH)).is_ok());
    assert!(RelPath::new(deep(MAX_DEPTH + 1)).is_err());
    let long = |len: usize| {
        b"abc/"
            .repeat(len / 4)
            .into_iter()
            .chain([b'x'; 4])
            .take(len)
            .collect::<Vec<u8>>()
    };
    assert!(RelPath::new(long(MAX_PATH)).is_ok());
    assert!(RelPath::new(long(MAX_PATH + 2)).is_err());
}

#[test]
fn a_clock_that_jumps_is_doubted_and_one_that_drifts_is_not() {
    let ahead = Arc::new(AtomicU64::new(1_000_000));
    let shared = Arc::clone(&ahead);
    let mut clock = Clock::new(move || Stamp {
        realtime: Duration::from_millis(shared.load(Ordering::Relaxed)),
        monotonic: Duration::from_millis(500_000),
    });
    ahead.store(1_000_400, Ordering::Relaxed);
    let read = clock.read();
    assert!(clock.is_recent((999, 0), read));
    assert!(!clock.is_recent((998, 0), read));
    assert!(!clock.is_doubtful());
    ahead.store(999_300, Ordering::Relaxed);
    clock.read();
    assert!(
        clock.is_doubtful(),
        "the two steps together are more than a second"
    );
}

#[test]
fn a_file_from_the_future_makes_the_clock_doubtful() {
    let mut clock = Clock::new(Stamp::clock());
    let read = clock.read();
    assert!(clock.is_recent((read.as_secs() as i64 + 5, 0), read));
    assert!(clock.is_doubtful());
}
