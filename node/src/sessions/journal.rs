//! The journal on a thread of its own: an fsync never stalls a task of the runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

use blosm_ledger::SessionId;
use blosm_migrate::session::{Entry, Journal, JournalError, Record};
use prometheus::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Writes that may wait for the disk. When it is full the writer waits, and with it that session.
const QUEUE: usize = 256;

type Records = Arc<RwLock<BTreeMap<SessionId, Arc<Record>>>>;

struct Write {
    entries: Vec<Entry>,
    done: oneshot::Sender<()>,
}

/// The journal can't take the entry: the fact may not be acted on, and the node is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session journal can't be written; the node stops")]
pub struct JournalClosed;

/// A cloneable way to the journal.
#[derive(Debug, Clone)]
pub struct JournalHandle {
    writes: mpsc::Sender<Write>,
    records: Records,
}

impl JournalHandle {
    /// Opens the journal and starts its thread. A write that fails cancels `failed`: what is on the disk is not known then,
    /// so this node may neither run nor give away a session until it has read the file again. `seconds` notes how long
    /// each write takes.
    pub fn open(path: &Path, failed: CancellationToken, seconds: Histogram) -> Result<Self, JournalError> {
        let mut journal = Journal::open(path)?;
        let snapshot = journal
            .records()
            .map(|record| (record.session, Arc::new(record.clone())))
            .collect();
        let records: Records = Arc::new(RwLock::new(snapshot));
        let (writes, mut queue) = mpsc::channel::<Write>(QUEUE);
        let published = records.clone();
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                while let Some(write) = queue.blocking_recv() {
                    let sessions: Vec<_> = write.entries.iter().map(Entry::session).collect();
                    let timer = seconds.start_timer();
                    let appended = journal.append(write.entries);
                    timer.observe_duration();
                    if let Err(error) = appended {
                        tracing::error!(%error, "the session journal failed; stopping");
                        failed.cancel();
                        return;
                    }
                    let mut published = published.write().expect("no reader of the records panics");
                    for session in sessions {
                        if let Some(record) = journal.record(&session) {
                            published.insert(session, Arc::new(record.clone()));
                        }
                    }
                    drop(published);
                    // The writer may have gone away; the fact stands all the same.
                    let _ = write.done.send(());
                }
            })
            .map_err(|source| JournalError::Io {
                path: path.to_owned(),
                what: "served by a thread",
                source,
            })?;
        Ok(Self { writes, records })
    }

    /// Writes one entry; it is on the disk when this returns.
    pub async fn append(&self, entry: Entry) -> Result<(), JournalClosed> {
        let (done, written) = oneshot::channel();
        self.writes
            .send(Write {
                entries: vec![entry],
                done,
            })
            .await
            .map_err(|_| JournalClosed)?;
        written.await.map_err(|_| JournalClosed)
    }

    /// What is known of a session.
    pub fn record(&self, session: &SessionId) -> Option<Arc<Record>> {
        self.records
            .read()
            .expect("the journal's thread does not panic")
            .get(session)
            .cloned()
    }

    /// All records.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.records
            .read()
            .expect("the journal's thread does not panic")
            .values()
            .cloned()
            .collect()
    }
}
