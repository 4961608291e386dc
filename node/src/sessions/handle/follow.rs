//! Clients of sessions that other nodes run: when does this node ask for one (rule 10)?

use super::*;

/// Clients of other nodes' sessions that are followed at once; the longest silent one is forgotten.
const MAX_FOLLOWED: usize = 4096;
/// Between two attempts to take the same session.
const VISIT_AGAIN: Duration = Duration::from_secs(1);
/// Each failed attempt doubles that time, this often: to about a minute.
const MAX_BACKOFF: u32 = 6;

#[derive(Debug)]
pub(super) struct Followed {
    mobility: Mobility,
    last_visit: Option<Instant>,
    last_seen: Instant,
}

impl SessionsHandle {
    /// Rule 10: a client sent a request here for a session that `owner` runs. Takes the session when that is due.
    pub(crate) fn follow(
        &self,
        session: SessionId,
        token: &Token,
        owner: PublicKey,
        position: Option<Position>,
    ) {
        let now = Instant::now();
        let parts = &self.0.parts;
        if parts.drain.is_on() {
            return;
        }
        let view = parts.chain.snapshot();
        let Some(member) = view.state.members().get(&owner) else {
            return;
        };
        let policy = MobilityPolicy {
            margin_m: parts.config.migration.margin,
            min_stay: parts.config.migration.min_stay,
            ..MobilityPolicy::default()
        };
        {
            let mut followed = self.followed();
            if followed.len() >= MAX_FOLLOWED && !followed.contains_key(&session) {
                let oldest = followed
                    .iter()
                    .min_by_key(|(_, client)| client.last_seen)
                    .map(|(id, _)| *id);
                oldest.and_then(|id| followed.remove(&id));
            }
            let client = followed.entry(session).or_insert_with(|| Followed {
                mobility: Mobility::default(),
                last_visit: None,
                last_seen: now,
            });
            client.last_seen = now;
            client.mobility.request_here(now, position);
            // When it last changed hands the owner knows, and says so.
            let due =
                client
                    .mobility
                    .decide(now, &policy, parts.position(), position_of(member.location), None);
            // A cut that fails costs the service a stop: what fails again and again is tried less and less often.
            let failed = self
                .slot(&session)
                .map_or(0, |slot| slot.failed_attempts.load(Ordering::Relaxed));
            let again = VISIT_AGAIN * (1 << failed.min(MAX_BACKOFF));
            let lately = client
                .last_visit
                .is_some_and(|last| now.saturating_duration_since(last) < again);
            if due.is_none() || lately {
                return;
            }
            client.last_visit = Some(now);
        }
        let slot = self.0.registry.ensure(session);
        let visit = Command::Visit {
            attempt: super::super::random(),
            token: Some(token.encode()),
            from: owner,
            how: MoveOrder::mobility(),
        };
        // A full queue means that the session is busy; the next request asks again.
        let _ = slot.commands.try_send(visit);
    }

    /// The client of this session was heard of at another node.
    pub(crate) fn heard_elsewhere(&self, session: &SessionId) {
        if let Some(client) = self.followed().get_mut(session) {
            client.mobility.request_elsewhere();
        }
    }

    pub(super) fn followed(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Followed>> {
        self.0
            .followed
            .lock()
            .expect("nothing panics while it holds the followed clients")
    }
}
