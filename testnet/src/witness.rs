//! A witness who asks no ledger: the most containers of one session that ever ran at one time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use crate::instances::{self, Instance};
use crate::state::State;

/// Between two looks at the process list.
const LOOK: Duration = Duration::from_millis(10);

/// Looks at the process list again and again, on a thread of its own, until it is stopped or dropped.
#[derive(Debug)]
pub struct Witness {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What a witness has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The most containers of one session whose own program ran at once: one, if all is well.
    pub most: Vec<Instance>,
    /// How often it looked.
    pub looks: u64,
}

impl Witness {
    /// Begins to look at the containers of a testnet.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(state: State) -> Result<Witness> {
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Seen::default())),
        );
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    let most = crowd(instances::live(&state));
                    let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.looks += 1;
                    if most.len() > seen.most.len() {
                        seen.most = most;
                    }
                    drop(seen);
                    pause();
                }
            })?;
        Ok(Witness {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// Ends it and gives what it saw.
    pub fn stop(mut self) -> Seen {
        self.end();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too, and what it saw until then counts.
            let _ = thread.join();
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end();
    }
}

/// The containers of the session that has most of them.
fn crowd(live: Vec<Instance>) -> Vec<Instance> {
    let mut sessions: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for instance in live {
        let session = instance.session.clone().unwrap_or_default();
        sessions.entry(session).or_default().push(instance);
    }
    sessions.into_values().max_by_key(Vec::len).unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a sampling thread of its own, between two samples"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(host: usize, session: &str) -> Instance {
        Instance {
            host,
            container: format!("c{host}"),
            session: Some(session.to_owned()),
        }
    }

    #[test]
    fn containers_are_counted_session_by_session() {
        assert_eq!(crowd(Vec::new()), []);
        let live = vec![
            instance(1, "a"),
            instance(1, "b"),
            instance(2, "b"),
            instance(2, "c"),
        ];
        assert_eq!(crowd(live), [instance(1, "b"), instance(2, "b")]);
    }
}
