//! The store across restarts: what comes back, what is mended, what is refused and with which words.

use std::path::Path;
use std::process::Command;

use blosm_ledger::*;
use rocksdb::{ColumnFamilyDescriptor, DB, Options};

use crate::world::*;

const COLUMNS: [&str; 8] = [
    "default", "headers", "bodies", "hash", "tx", "members", "sessions", "meta",
];

/// Opens the database beside the ledger, to damage it.
fn damage(path: &Path, change: impl FnOnce(&DB)) {
    let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&Options::default(), path, columns).unwrap();
    change(&db);
}

fn delete(db: &DB, column: &str, key: impl AsRef<[u8]>) {
    db.delete_cf(db.cf_handle(column).unwrap(), key).unwrap();
}

fn put(db: &DB, column: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    db.put_cf(db.cf_handle(column).unwrap(), key, value).unwrap();
}

fn count(db: &DB, column: &str) -> usize {
    db.iterator_cf(db.cf_handle(column).unwrap(), rocksdb::IteratorMode::Start)
        .count()
}

fn refusal(path: &Path) -> StoreError {
    match Ledger::open(path, genesis(), None) {
        Err(LedgerError::Store(error)) => error,
        other => panic!("expected a store error, got {other:?}"),
    }
}

#[test]
fn everything_comes_back() {
    let directory = directory();
    let (ledger, blocks) = sealed_story(&directory);
    let (head, state) = (ledger.head(), ledger.state().clone());
    drop(ledger);
    let mut ledger = authority(&directory);
    assert_eq!(ledger.head(), head);
    assert!(ledger.state().sessions().eq(state.sessions()));
    assert!(ledger.state().members().iter().eq(state.members().iter()));
    assert!(ledger.state().members().evicted(&public(3)).is_some());
    assert!(ledger.state().members().admission_used(&Hash([3; 32])));
    assert_eq!(ledger.range(1, 100, usize::MAX).unwrap(), blocks);
    assert_eq!(
        ledger.submit(open(1, 1)),
        Ok(Submitted::AlreadySealed { height: 5 })
    );
    let next = seal(&mut ledger, [open(3, 1)]);
    assert_eq!((next.height(), next.block.header.previous_hash), (13, head.hash));
    assert!(next.block.header.nonce > head.nonce);
}

#[test]
fn the_store_says_what_it_holds() {
    let directory = directory();
    let (ledger, _) = sealed_story(&directory);
    let written = ledger.store_figures().unwrap();
    let on_disk = |figures: &StoreFigures| figures.table_bytes.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(written.memtable_bytes > 0, "{written:?}");
    assert_eq!(
        (written.background_errors, written.writes_stopped),
        (0, false),
        "{written:?}"
    );
    drop(ledger);
    // What was in memory and in the log is in tables after a start.
    let reopened = authority(&directory).store_figures().unwrap();
    assert!(on_disk(&reopened) > on_disk(&written), "{reopened:?}");
    let names: Vec<_> = reopened.table_bytes.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["headers", "bodies", "hash", "tx", "members", "sessions", "meta"]
    );
}

#[test]
fn an_empty_ledger_comes_back_empty() {
    let directory = directory();
    let head = authority(&directory).head();
    assert_eq!((head.height, head.hash), (0, chain_id()));
    assert_eq!(authority(&directory).head(), head);
}

#[test]
fn a_second_ledger_on_the_directory_is_told_who_holds_it() {
    let directory = directory();
    let _ledger = authority(&directory);
    let error = refusal(directory.path());
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("another blosm runs on"), "{error}");
    // The same from another process, where the database words it differently.
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "reopen::opens_the_directory_of_the_environment",
            "--ignored",
            "--nocapture",
        ])
        .env("LEDGER_TEST_DIRECTORY", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("another blosm runs on"), "{text}");
}

#[test]
#[ignore = "run by a_second_ledger_on_the_directory_is_told_who_holds_it in a process of its own"]
fn opens_the_directory_of_the_environment() {
    if let Some(path) = std::env::var_os("LEDGER_TEST_DIRECTORY") {
        println!("{}", refusal(Path::new(&path)));
    }
}

#[test]
fn another_network_and_a_later_schema_are_refused() {
    let directory = directory();
    drop(authority(&directory));
    let other = Genesis {
        name: "other".into(),
        ..genesis()
    };
    let error = Ledger::open(directory.path(), other, None).unwrap_err();
    assert!(
        matches!(error, LedgerError::Store(StoreError::OtherNetwork { .. })),
        "{error:?}"
    );
    damage(directory.path(), |db| {
        put(db, "meta", "schema", 2u32.to_le_bytes())
    });
    let error = refusal(directory.path());
    assert!(
        matches!(
            error,
            StoreError::Schema {
                found: 2,
                ours: 1,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn blocks_of_a_later_version_are_no_damage() {
    let version = NEWEST_VERSION + 1;
    let of_version = |db: &DB| {
        let (headers, key) = (db.cf_handle("headers").unwrap(), 12u64.to_be_bytes());
        let mut header = db.get_cf(headers, key).unwrap().unwrap();
        header[..2].copy_from_slice(&version.to_le_bytes());
        header.extend([7; 40]);
        put(db, "headers", key, header);
    };
    let of_kind = |db: &DB| {
        let (bodies, key) = (db.cf_handle("bodies").unwrap(), 12u64.to_be_bytes());
        let mut body = db.get_cf(bodies, key).unwrap().unwrap();
        // The number of transactions, then chain_id, sender and an absent max_height stand before the kind of an opening.
        let kind = &mut body[4 + 32 + 32 + 1];
        assert_eq!(*kind, 2);
        *kind = 11;
        put(db, "bodies", key, body);
    };
    let refused = |change: &dyn Fn(&DB), expected: Newer| {
        let directory = directory();
        let (ledger, _) = sealed_story(&directory);
        drop(ledger);
        damage(directory.path(), change);
        let error = refusal(directory.path());
        assert!(
            matches!(&error, StoreError::Newer { height: 12, newer, .. } if *newer == expected),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("start that one again") && !text.contains("emove"),
            "{text}"
        );
    };
    refused(&of_version, Newer::Header(version));
    refused(&of_kind, Newer::Kind(11));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = refusal(&file.join("ledger"));
    assert!(matches!(error, StoreError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("file/ledger"));
}

#[test]
fn lost_index_entries_are_written_again() {
    let directory = directory();
    let (ledger, blocks) = sealed_story(&directory);
    drop(ledger);
    damage(directory.path(), |db| {
        delete(db, "hash", blocks[11].hash());
        delete(db, "tx", open(2, 2).hash());
        put(db, "tx", admit(1).hash(), "nonsense");
    });
    let ledger = follower(&directory);
    assert_eq!(
        ledger
            .block_by_hash(&blocks[11].hash())
            .unwrap()
            .unwrap()
            .height(),
        12
    );
    assert_eq!(
        ledger.transaction(&open(2, 2).hash()).unwrap().unwrap().height,
        12
    );
    assert_eq!(ledger.transaction(&admit(1).hash()).unwrap().unwrap().height, 2);
}

#[test]
fn members_and_sessions_are_made_again_from_the_blocks() {
    type Change = fn(&DB);
    let changes: [Change; 5] = [
        |db| delete(db, "sessions", session(1)),
        |db| put(db, "sessions", token(2, 2).session(), "nonsense"),
        |db| {
            put(
                db,
                "sessions",
                [1u8; 32],
                db.get_cf(db.cf_handle("sessions").unwrap(), session(1))
                    .unwrap()
                    .unwrap(),
            )
        },
        |db| delete(db, "members", [[0u8; 1].as_slice(), &public(1).0].concat()),
        |db| put(db, "members", "nonsense", ""),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let directory = directory();
        let (ledger, _) = sealed_story(&directory);
        let state = ledger.state().clone();
        drop(ledger);
        damage(directory.path(), change);
        for _ in 0..2 {
            let ledger = follower(&directory);
            assert!(ledger.state().sessions().eq(state.sessions()), "change {i}");
            assert!(
                ledger.state().members().iter().eq(state.members().iter()),
                "change {i}"
            );
            assert!(
                ledger.state().members().evicted(&public(3)).is_some(),
                "change {i}"
            );
        }
        damage(directory.path(), |db| {
            assert_eq!(count(db, "sessions"), 2, "change {i}")
        });
    }
}

#[test]
fn what_cannot_be_mended_is_refused_with_the_way_out() {
    type Change = fn(&DB, &SealedBlock);
    let changes: [(&str, Change); 7] = [
        ("header of height 12 is missing", |db, _| {
            delete(db, "headers", 12u64.to_be_bytes())
        }),
        ("header of height 12 is wrong", |db, _| {
            put(db, "headers", 12u64.to_be_bytes(), "nonsense")
        }),
        ("header of height 7 is missing", |db, _| {
            delete(db, "headers", 7u64.to_be_bytes())
        }),
        ("body of height 12 is missing", |db, _| {
            delete(db, "bodies", 12u64.to_be_bytes())
        }),
        ("body of height 12 is wrong", |db, _| {
            put(db, "bodies", 12u64.to_be_bytes(), 0u32.to_le_bytes())
        }),
        ("there is a block above the head 12", |db, _| {
            put(db, "headers", 13u64.to_be_bytes(), "x")
        }),
        ("an entry of the head cannot be read", |db, _| {
            put(db, "meta", "head", "x")
        }),
    ];
    for (words, change) in changes {
        let directory = directory();
        let (ledger, blocks) = sealed_story(&directory);
        drop(ledger);
        damage(directory.path(), |db| change(db, &blocks[11]));
        let error = refusal(directory.path());
        assert!(matches!(error, StoreError::Damaged { .. }), "{words}: {error:?}");
        let text = error.to_string();
        assert!(
            text.contains(words) && text.contains("Remove that directory"),
            "{words}: {text}"
        );
    }
}

#[test]
fn a_head_without_its_schema_or_a_forged_certificate_is_refused() {
    let directory = directory();
    let (ledger, blocks) = sealed_story(&directory);
    drop(ledger);
    damage(directory.path(), |db| {
        let header = borsh::to_vec(&blocks[11].block.header).unwrap();
        let forged = Certificate::of_one(&key(5), chain_id(), 12, blocks[11].hash());
        put(
            db,
            "headers",
            12u64.to_be_bytes(),
            [header, borsh::to_vec(&forged).unwrap()].concat(),
        );
    });
    assert!(
        refusal(directory.path())
            .to_string()
            .contains("certificate of height 12 is wrong")
    );
    damage(directory.path(), |db| delete(db, "meta", "schema"));
    assert!(
        refusal(directory.path())
            .to_string()
            .contains("blocks but no head")
    );
}

#[test]
fn a_torn_log_leaves_whole_blocks() {
    for cut in [1, 7, 64, 300, 900, 2000] {
        let directory = directory();
        let (ledger, blocks) = sealed_story(&directory);
        drop(ledger);
        let log = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
            .max()
            .unwrap();
        let length = std::fs::metadata(&log).unwrap().len();
        std::fs::OpenOptions::new()
            .write(true)
            .open(&log)
            .unwrap()
            .set_len(length - cut)
            .unwrap();
        let mut ledger = follower(&directory);
        let height = ledger.head().height as usize;
        assert!(
            (1..12).contains(&height),
            "cut of {cut} bytes left height {height}"
        );
        assert_eq!(ledger.head().hash, blocks[height - 1].hash());
        for block in &blocks[height..] {
            ledger.import(block.clone()).unwrap();
        }
        assert_eq!(ledger.head().height, 12);
    }
}
