//! The sessions that have a task on this node.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use blosm_ledger::SessionId;
use tokio::sync::{Notify, mpsc, watch};

use super::actor::{Actor, Command, QUEUE};
use super::grants::Grants;
use super::wire::SourceFigures;
use crate::gateway::{Gate, Route};
use crate::parts::Parts;

/// One session on this node, as others see it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The session.
    pub(crate) id: SessionId,
    /// Where its requests go.
    pub(crate) gate: Arc<Gate>,
    /// The way to its task.
    pub(crate) commands: mpsc::Sender<Command>,
    /// Attempts of this node to take the session that failed one after another.
    pub(crate) failed_attempts: AtomicU32,
    /// Wakes the submitter.
    pub(crate) submit: Arc<Notify>,
    /// The epoch at which its container was last found healthy after it had come here, and when.
    pub(crate) healthy: watch::Sender<Option<(u64, Instant)>>,
    /// The same, once the former owner has answered to it.
    pub(crate) served: watch::Sender<Option<(u64, SourceFigures)>>,
}

/// All slots of the node.
#[derive(Debug)]
pub(super) struct Registry {
    parts: Arc<Parts>,
    grants: Arc<Grants>,
    submit: Arc<Notify>,
    slots: Mutex<HashMap<SessionId, Arc<Slot>>>,
}

impl Registry {
    pub(super) fn new(parts: Arc<Parts>, grants: Arc<Grants>, submit: Arc<Notify>) -> Self {
        Self {
            parts,
            grants,
            submit,
            slots: Mutex::default(),
        }
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<Arc<Slot>> {
        self.lock().get(id).cloned()
    }

    /// The session's slot; its task is started if there is none.
    pub(super) fn ensure(&self, id: SessionId) -> Arc<Slot> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&id) {
            return slot.clone();
        }
        let mine = self
            .parts
            .journal
            .record(&id)
            .is_some_and(|record| record.may_run());
        let gateway = &self.parts.config.gateway;
        let route = if mine { Route::Held } else { Route::Elsewhere };
        let (commands, queue) = mpsc::channel(QUEUE);
        let slot = Arc::new(Slot {
            id,
            gate: Gate::new(route, gateway.hold_max, gateway.hold_time),
            commands,
            failed_attempts: AtomicU32::new(0),
            submit: self.submit.clone(),
            healthy: watch::Sender::new(None),
            served: watch::Sender::new(None),
        });
        slots.insert(id, slot.clone());
        let actor = Actor::new(self.parts.clone(), self.grants.clone(), slot.clone(), queue);
        tokio::spawn(actor.run());
        slot
    }

    /// Requests that wait at the gates of all sessions.
    pub(super) fn held_requests(&self) -> usize {
        // Requests look for their slot here: they do not wait for every gate in turn.
        let slots: Vec<Arc<Slot>> = self.lock().values().cloned().collect();
        slots.iter().map(|slot| slot.gate.waiting()).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Slot>>> {
        self.slots
            .lock()
            .expect("nothing panics while it holds the slots")
    }
}
