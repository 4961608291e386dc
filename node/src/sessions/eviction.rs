//! The end of a membership: what an authority asks before it evicts, how a member leaves, and what an evicted node does.
//!
//! An evicted node stops the containers of its sessions, serves nothing, and stays up: its status says why. It goes on
//! dialling its authority, so that it hears when it is admitted again, and then takes its sessions up where they were.

use std::sync::Arc;
use std::time::Duration;

use blosm_ledger::{Evict, Evicted, Payload, PublicKey, SessionId};
use blosm_migrate::docker::EngineError;
use blosm_migrate::service::StopSignal;

use super::wire::{Refusal, SessionRequest, SessionResponse};
use super::{SessionsHandle, notice};
use crate::chain::SubmitError;
use crate::parts::Parts;

/// Between two tries to stop a container that the engine did not stop.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a node was not evicted, or does not leave.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    /// It still has sessions.
    #[error("{label} owns {count} session{}: {list}; move them with --drain, or say --lost if the machine is off for good", plural(.count))]
    Owns {
        /// The node.
        label: String,
        /// How many.
        count: usize,
        /// The first of them, with their services.
        list: String,
    },
    /// This node still has sessions.
    #[error("this node owns {0} sessions; `blosm drain` moves them")]
    NotDrained(usize),
    /// The node does not answer the order to drain.
    #[error("{label} does not answer ({why}); start it, or say --lost if the machine is off for good")]
    Silent {
        /// The node.
        label: String,
        /// What happened.
        why: String,
    },
    /// It is an authority.
    #[error("{0} is an authority of the network, and authorities stay")]
    Authority(String),
    /// It is none.
    #[error("this node is no member of its network")]
    NotMember,
    /// The ledger did not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// How far the draining of another node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draining {
    /// Whether every session was moved, or everybody was asked for it.
    pub(crate) settled: bool,
    /// Sessions that are still there.
    pub(crate) remaining: u32,
}

impl SessionsHandle {
    /// Has a member evicted. It must own no session on the chain, unless its operator said what becomes of them.
    pub(crate) async fn evict(
        &self,
        node: PublicKey,
        why: String,
        lost: bool,
        regardless: bool,
    ) -> Result<u64, EvictError> {
        let parts = self.parts();
        if parts.config.network.genesis.is_authority(&node) {
            return Err(EvictError::Authority(self.label(node)));
        }
        let owned = self.owned_by(node);
        if !regardless && !owned.is_empty() {
            return Err(EvictError::Owns {
                label: self.label(node),
                count: owned.len(),
                list: name_some(&owned),
            });
        }
        let evict = Payload::Evict(Evict {
            key: node,
            reason: why,
            lost,
        });
        Ok(parts.chain.submit(parts.sign(evict)).await?)
    }

    /// Orders a member to drain, and asks how far it is.
    pub(crate) async fn drain_other(&self, node: PublicKey) -> Result<Draining, EvictError> {
        let silent = |why: String| EvictError::Silent {
            label: self.label(node),
            why,
        };
        match notice::ask(self.parts(), node, &SessionRequest::Drain).await {
            Ok(SessionResponse::Draining { settled, remaining }) => Ok(Draining { settled, remaining }),
            Ok(SessionResponse::Refused(refusal)) => Err(silent(refusal.to_string())),
            Ok(_) => Err(silent("its answer makes no sense".to_owned())),
            Err(error) => Err(silent(error.to_string())),
        }
    }

    /// This node leaves its network by its own signature.
    pub(crate) async fn leave(&self, why: String) -> Result<u64, EvictError> {
        let parts = self.parts();
        if parts.config.is_authority() {
            return Err(EvictError::Authority("this node".to_owned()));
        }
        if !parts.chain.snapshot().state.members().contains(&parts.me) {
            return Err(EvictError::NotMember);
        }
        match self.owned().len() {
            0 => {}
            count => return Err(EvictError::NotDrained(count)),
        }
        let evict = Payload::Evict(Evict {
            key: parts.me,
            reason: why,
            lost: false,
        });
        Ok(parts.chain.submit(parts.sign(evict)).await?)
    }

    /// An authority's operator wants this node empty.
    pub(super) fn on_drain(&self, from: PublicKey) -> SessionResponse {
        let parts = self.parts();
        if !parts.config.network.genesis.is_authority(&from) {
            return SessionResponse::Refused(Refusal::NotAuthorised);
        }
        if !parts.drain.is_on()
            && let Err(error) = self.drain(None)
        {
            tracing::error!(%error, "the authority's order to drain can't be followed");
            return SessionResponse::Refused(Refusal::NotReady);
        }
        let view = self.drain_view();
        SessionResponse::Draining {
            settled: view.settled,
            remaining: u32::try_from(view.remaining).unwrap_or(u32::MAX),
        }
    }

    /// The sessions of a node by the chain, with their services.
    fn owned_by(&self, node: PublicKey) -> Vec<(SessionId, String)> {
        let view = self.parts().chain.snapshot();
        let open = view.state.sessions();
        open.filter(|(_, session)| session.owner == node && session.is_open())
            .map(|(id, session)| (*id, session.service.clone()))
            .collect()
    }
}

fn plural(count: &usize) -> &'static str {
    if *count == 1 { "" } else { "s" }
}

/// The first few by name.
fn name_some(sessions: &[(SessionId, String)]) -> String {
    const SHOWN: usize = 5;
    let shown = sessions.iter().take(SHOWN);
    let mut names: Vec<String> = shown
        .map(|(id, service)| format!("{} ({service})", id.short(12)))
        .collect();
    if sessions.len() > SHOWN {
        names.push("...".to_owned());
    }
    names.join(", ")
}

/// For status and log.
pub(super) fn explain(evicted: &Evicted) -> String {
    format!(
        "this node was evicted at block {} ({}); its containers are stopped and kept, `blosm join` with a new invite brings it back",
        evicted.height, evicted.reason
    )
}

/// Says so when the node is evicted or admitted again. The sessions' own tasks stop and start their containers.
pub(super) async fn watch(parts: Arc<Parts>) {
    loop {
        tokio::select! {
            () = parts.until_evicted() => {}
            () = parts.stop.cancelled() => return,
        }
        if let Some(evicted) = parts.evicted() {
            tracing::error!("{}", explain(&evicted));
        }
        // It was drained for this; admitted again it shall serve.
        if let Err(error) = parts.drain.end() {
            tracing::warn!(%error, "still drained");
        }
        tokio::select! {
            () = parts.while_evicted() => tracing::info!("admitted again"),
            () = parts.stop.cancelled() => return,
        }
    }
}

/// Stops a container of this node and sees its exit, however often the engine has to be asked.
pub(super) async fn stop(parts: &Parts, container: &str, grace: Duration) {
    loop {
        match parts.engine.stop(container, StopSignal::SigTerm, grace).await {
            Ok(_) | Err(EngineError::NotFound { .. }) => return,
            Err(error) => tracing::error!(container, %error, "can't be stopped yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = parts.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_but_not_all_of_a_hundred() {
        let session = |i: u8| (SessionId([i; 32]), "counter".to_owned());
        let one = EvictError::Owns {
            label: "host2".into(),
            count: 1,
            list: name_some(&[session(1)]),
        };
        assert_eq!(
            one.to_string(),
            "host2 owns 1 session: 010101010101 (counter); move them with --drain, or say --lost if the machine is off \
             for good"
        );
        let many: Vec<_> = (0..100).map(session).collect();
        let list = name_some(&many);
        assert_eq!(list.matches("(counter)").count(), 5);
        assert!(list.ends_with(", ..."));
    }
}
