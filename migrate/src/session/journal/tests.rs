//! The journal file: what was appended is there again, what was torn is not, and damage is refused.

use blosm_ledger::Hash;
use proptest::prelude::*;

use super::*;
use crate::session::Pending;
use crate::session::journal_bytes::PREFIX;

fn opened(byte: u8) -> Entry {
    Entry::Opened {
        session: SessionId([byte; 32]),
        service: format!("service-{byte}"),
        open: Pending {
            hash: Hash([byte; 32]),
            bytes: vec![byte; 100],
        },
    }
}

fn written(entries: u8) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.journal");
    let mut journal = Journal::open(&path).unwrap();
    for byte in 0..entries {
        journal.append(vec![opened(byte)]).unwrap();
    }
    (folder, path)
}

fn count(path: &Path) -> usize {
    Journal::open(path).unwrap().records().count()
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let (_folder, path) = written(3);
    let journal = Journal::open(&path).unwrap();
    let record = journal.record(&SessionId([1; 32])).unwrap();
    assert_eq!(record.service, "service-1");
    assert_eq!(journal.records().count(), 3);
}

#[test]
fn a_journal_goes_on_after_a_torn_append() {
    let (_folder, path) = written(3);
    let whole = std::fs::read(&path).unwrap();
    let last = whole.len() - 1;
    std::fs::write(&path, &whole[..last]).unwrap();
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(journal.records().count(), 2);
    journal.append(vec![opened(9)]).unwrap();
    drop(journal);
    assert_eq!(count(&path), 3);
}

#[test]
fn damage_before_the_end_is_refused() {
    let (_folder, path) = written(3);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[MAGIC.len() + PREFIX + 5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        Journal::open(&path),
        Err(JournalError::Damaged { offset: 8, .. })
    ));
}

#[test]
fn another_file_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "something that matters to somebody").unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Foreign { .. })));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"something that matters to somebody"
    );
}

#[test]
fn a_long_journal_is_condensed_without_loss() {
    let (_folder, path) = written(1);
    let mut journal = Journal::open(&path).unwrap();
    let session = SessionId([0; 32]);
    while std::fs::metadata(&path).unwrap().len() <= CONDENSE_ABOVE {
        let entries = (0..2000)
            .map(|_| Entry::Acknowledged { session, epoch: 1 })
            .collect();
        journal.append(entries).unwrap();
    }
    let before = journal.record(&session).unwrap().clone();
    drop(journal);
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.record(&session), Some(&before));
    assert!(std::fs::metadata(&path).unwrap().len() < 4096);
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_believed_after_it() {
    // A file that may not grow further behaves like a disk that is full.
    let (_folder, path) = written(1);
    let mut journal = Journal::open(&path).unwrap();
    journal.file = File::options().read(true).open(&path).unwrap();
    assert!(matches!(
        journal.append(vec![opened(5)]),
        Err(JournalError::Io { .. })
    ));
    assert!(matches!(
        journal.append(vec![opened(6)]),
        Err(JournalError::Poisoned { .. })
    ));
    assert_eq!(
        journal.records().count(),
        1,
        "what was not written did not happen"
    );
}

proptest! {
    /// Cut anywhere, the journal holds a prefix of what was appended.
    #[test]
    fn journal_props_a_cut_file_is_a_prefix(cut in 0_usize..1200) {
        let (_folder, path) = written(5);
        let whole = std::fs::read(&path).unwrap();
        let cut = cut.min(whole.len());
        std::fs::write(&path, &whole[..cut]).unwrap();
        let journal = Journal::open(&path).unwrap();
        let found: Vec<u8> = journal.records().map(|record| record.session.0[0]).collect();
        let expect: Vec<u8> = (0..u8::try_from(found.len()).unwrap()).collect();
        prop_assert_eq!(found, expect);
    }
}
