//! What the local API asks and wants of the sessions.

use std::collections::BTreeMap;

use blosm_migrate::resources::Machine;

use super::*;
use crate::sessions::Progress;

impl SessionsHandle {
    /// All sessions that the journal or the chain know, by id.
    pub async fn list(&self) -> Vec<SessionView> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let mut ids: Vec<SessionId> = parts
            .journal
            .records()
            .iter()
            .map(|record| record.session)
            .collect();
        ids.extend(view.state.sessions().map(|(id, _)| *id));
        ids.sort_unstable();
        ids.dedup();
        let mut list = Vec::with_capacity(ids.len());
        for id in ids {
            let record = parts.journal.record(&id);
            let sealed = view.state.session(&id);
            let (owner, epoch, status) = match self.owner(&id) {
                KnownOwner::Me => {
                    let epoch = record
                        .as_ref()
                        .and_then(|record| record.owned_epoch())
                        .unwrap_or_default();
                    (Some(parts.me), epoch, "open")
                }
                KnownOwner::Other { owner, epoch } => (Some(owner), epoch, "open"),
                KnownOwner::Closed => (None, sealed.map_or(0, |sealed| sealed.epoch), "closed"),
                // A staged container of a session that the chain does not know yet.
                KnownOwner::Unknown => (None, 0, "open"),
            };
            let actor = self.ask_view(&id).await;
            let service = match (&record, sealed) {
                (Some(record), _) if !record.service.is_empty() => record.service.clone(),
                (_, Some(sealed)) => sealed.service.clone(),
                _ => String::new(),
            };
            list.push(SessionView {
                session: id.to_string(),
                service,
                owner: owner.map(|owner| owner.to_string()),
                owner_label: owner.and_then(|owner| Some(view.state.members().get(&owner)?.label.clone())),
                epoch,
                status,
                mine: owner == Some(parts.me),
                container: actor.container.clone(),
                container_name: actor.container,
                address: actor.address,
                phase: actor.phase,
                unsealed: record.map_or(0, |record| record.pending.len()),
            });
        }
        list
    }

    pub(super) async fn ask_view(&self, session: &SessionId) -> ActorView {
        let elsewhere = ActorView {
            phase: "elsewhere",
            ..ActorView::default()
        };
        let Some(slot) = self.slot(session) else {
            return elsewhere;
        };
        let (reply, view) = oneshot::channel();
        // A session in a cut answers late: say what is known rather than wait.
        if slot.commands.try_send(Command::View { reply }).is_err() {
            return ActorView {
                phase: "busy",
                ..elsewhere
            };
        }
        match tokio::time::timeout(Duration::from_millis(200), view).await {
            Ok(Ok(view)) => view,
            _ => ActorView {
                phase: "busy",
                ..elsewhere
            },
        }
    }

    /// The reports of the migrations that this node took part in, oldest first.
    pub async fn migrations(&self) -> Vec<MigrationReport> {
        self.0.parts.reports.all()
    }

    /// One of them, by a prefix of its id.
    pub async fn migration(&self, id: &str) -> Option<MigrationReport> {
        self.0.parts.reports.get(id)
    }

    /// The phase that a migration is in, and how far that is, if it has been heard of lately. `id` is its name in full.
    pub(crate) fn reached(&self, id: &str) -> Option<(&'static str, Progress)> {
        let attempt = hex::decode(id).ok()?.try_into().ok()?;
        self.0.parts.reports.reached(&attempt)
    }

    /// Steps of migrations as they happen.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.parts.reports.events()
    }

    /// Moves a session of this node to `to`, or to the nearest connected member. Returns the migration's id.
    pub(crate) async fn migrate(
        &self,
        prefix: &str,
        to: Option<PublicKey>,
        how: MoveOrder,
    ) -> Result<String, MigrateError> {
        let (session, to) = self.order(prefix, to)?;
        let parts = &self.0.parts;
        let service = parts
            .journal
            .record(&session)
            .and_then(|record| parts.config.services.get(&record.service).cloned());
        let stateless = service.as_ref().is_some_and(|service| service.stateless);
        match (how.method, &service) {
            (Some(Method::Stateless), _) if !stateless => return Err(MigrateError::NotStateless),
            (Some(Method::Live), _) if stateless => return Err(MigrateError::Stateless),
            (Some(Method::Image), Some(service)) => {
                // What the engine can't tell now, the source finds out when it is asked for the image.
                let volumes = launch::copied_volumes(parts, service).await;
                if volumes.is_ok_and(|volumes| !volumes.is_empty()) {
                    return Err(MigrateError::Volumes);
                }
            }
            _ => {}
        }
        match self.send_away(session, to, how).await {
            Some(Ok(attempt)) => Ok(hex::encode(attempt)),
            Some(Err(refusal)) => Err(MigrateError::Refused(refusal.to_string())),
            None => Err(MigrateError::Stopping),
        }
    }

    /// Which session of this node is meant, and where it would go.
    pub(super) fn order(
        &self,
        prefix: &str,
        to: Option<PublicKey>,
    ) -> Result<(SessionId, PublicKey), MigrateError> {
        let session = self.find(prefix)?;
        match self.owner(&session) {
            KnownOwner::Me => {}
            KnownOwner::Other { owner, .. } => {
                return Err(MigrateError::NotOwner {
                    owner: self.label(owner),
                });
            }
            KnownOwner::Closed | KnownOwner::Unknown => return Err(MigrateError::Unknown(prefix.to_owned())),
        }
        match to {
            Some(to) if to == self.0.parts.me => Err(MigrateError::Already),
            Some(to) => Ok((session, to)),
            None => {
                let nearest = self.nearest_members().into_iter().next();
                Ok((session, nearest.ok_or(MigrateError::NoDestination)?))
            }
        }
    }

    /// Asks `to` to take a session of this node. `None` when the node is stopping.
    pub(in crate::sessions) async fn send_away(
        &self,
        session: SessionId,
        to: PublicKey,
        how: MoveOrder,
    ) -> Option<Result<Attempt, Refusal>> {
        let slot = self.0.registry.ensure(session);
        let (reply, started) = oneshot::channel();
        slot.commands
            .send(Command::Migrate { to, how, reply })
            .await
            .ok()?;
        started.await.ok()
    }

    /// What people call a member, or have called it.
    pub(in crate::sessions) fn label(&self, key: PublicKey) -> String {
        let view = self.0.parts.chain.snapshot();
        let member = view.state.members().get(&key);
        member.map_or_else(|| key.short(8), |member| member.label.clone())
    }

    pub(super) fn find(&self, prefix: &str) -> Result<SessionId, MigrateError> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() {
            return Err(MigrateError::Unknown(prefix));
        }
        let mut found: Vec<SessionId> = parts
            .journal
            .records()
            .iter()
            .map(|record| record.session)
            .collect();
        found.extend(
            view.state
                .sessions()
                .filter(|(_, sealed)| sealed.is_open())
                .map(|(id, _)| *id),
        );
        found.retain(|id| id.to_string().starts_with(&prefix));
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(MigrateError::Unknown(prefix)),
            _ => Err(MigrateError::Ambiguous(prefix)),
        }
    }

    /// The other members that are connected, the nearest first.
    pub(in crate::sessions) fn nearest_members(&self) -> Vec<PublicKey> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let members: Vec<_> = view
            .state
            .members()
            .iter()
            .filter(|(key, _)| **key != parts.me && parts.net.is_connected(&blosm_net::peer_of_key(&key.0)))
            .map(|(key, member)| (*key, position_of(member.location)))
            .collect();
        let sorted = nearest_first(&members, parts.position());
        sorted.iter().map(|(key, _)| *key).collect()
    }

    /// R_tot, what is reserved of it and what is left.
    pub async fn resources(&self) -> ResourcesView {
        let now = Instant::now();
        let bookings = self.0.parts.bookings();
        let (total, reserved, free) = (bookings.total(), bookings.reserved(now), bookings.remaining(now));
        let of = |total, reserved, free| AmountView {
            total,
            reserved,
            free,
        };
        ResourcesView {
            memory: of(total.memory, reserved.memory, free.memory),
            cpu: of(total.cpu_milli, reserved.cpu_milli, free.cpu_milli),
            gpu: of(total.gpus.into(), reserved.gpus.into(), free.gpus.into()),
        }
    }

    /// The sessions that this node owns, by service, and how many transactions of sessions the chain does not hold yet.
    pub(crate) fn tally(&self) -> (BTreeMap<String, usize>, usize) {
        let (mut owned, mut unsealed) = (BTreeMap::new(), 0);
        for record in self.0.parts.journal.records() {
            unsealed += record.pending.len();
            if record.may_run() {
                *owned.entry(record.service.clone()).or_default() += 1;
            }
        }
        (owned, unsealed)
    }

    /// How many sessions leave this node and come to it now, and how many requests wait for a container.
    pub(crate) fn under_way(&self) -> (usize, usize, usize) {
        let (leaving, coming) = self.0.parts.slots.taken();
        (leaving, coming, self.0.registry.held_requests())
    }

    /// The machine as a whole; none when it cannot be read.
    pub(crate) async fn machine(&self) -> Option<Machine> {
        let watcher = self.0.parts.watcher.clone();
        // An error means that the node stops.
        let read = tokio::task::spawn_blocking(move || watcher.machine())
            .await
            .ok()?;
        read.inspect_err(|error| tracing::warn!(%error, "the machine cannot be read"))
            .ok()
    }

    /// Whether the operator empties this node.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.parts.drain.is_on()
    }

    /// The ways to move a container, and which of them work here.
    pub fn methods(&self) -> Vec<MethodView> {
        self.0.parts.methods.view()
    }

    /// The engine, and whether it answers now.
    pub async fn engine(&self) -> EngineView {
        let engine = &self.0.parts.engine;
        let about = engine.about();
        EngineView {
            runtime: engine.runtime().as_str(),
            answers: engine.alive().await,
            version: about.version,
            store: about.store,
            storage_driver: about.storage_driver,
            architecture: about.architecture,
        }
    }
}
