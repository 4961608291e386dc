//! The start of a node: which sessions it takes up, and which containers it stops.

use blosm_migrate::session::{Found, fate};

use super::*;

impl SessionsHandle {
    /// Takes up the sessions that the journal gives to this node, and stops every other container of this network (rule 7).
    ///
    /// # Errors
    /// The engine's list of containers can't be had: nothing was started then.
    pub(crate) async fn start(parts: Arc<Parts>) -> Result<Self, blosm_migrate::docker::EngineError> {
        let submit = Arc::new(Notify::new());
        let grants = Arc::new(Grants::new(parts.config.data_dir.join("spool")));
        // What earlier attempts have received is kept for the next one, for a while.
        tokio::spawn(super::super::incoming::folders::sweep(parts.clone()));
        let registry = Registry::new(parts.clone(), grants.clone(), submit.clone());
        let inner = Inner {
            parts,
            grants,
            registry,
            shared: Shared::default(),
            submit,
            followed: Mutex::default(),
            ready: AtomicBool::new(false),
        };
        let handle = Self(Arc::new(inner));
        let containers = handle.stop_strangers().await?;
        leftovers::clear(&handle.0.parts, &containers).await;
        for record in handle.0.parts.journal.records() {
            if record.may_run() {
                handle.adopt_booking(&record);
            }
            if !record.is_settled() {
                handle.0.registry.ensure(record.session);
            }
        }
        tokio::spawn(submit::run(handle.0.parts.clone(), handle.0.submit.clone()));
        tokio::spawn(methods::prove(handle.0.parts.clone()));
        tokio::spawn(budget::keep(handle.0.parts.clone()));
        tokio::spawn(drain::run(handle.clone()));
        tokio::spawn(eviction::watch(handle.0.parts.clone()));
        handle.0.ready.store(true, Ordering::Release);
        Ok(handle)
    }

    /// Rule 7: a labelled container that runs and is not the current one of a session of this node is stopped and kept. One
    /// that no record names, and that never ran or has no state, is what a dead attempt has left. Gives the names of those that remain.
    pub(super) async fn stop_strangers(
        &self,
    ) -> Result<BTreeSet<String>, blosm_migrate::docker::EngineError> {
        let parts = &self.0.parts;
        let view = parts.chain.snapshot();
        let shared: Vec<String> = parts
            .config
            .services
            .values()
            .map(|service| shared::label(service).to_string())
            .collect();
        let mut remaining = BTreeSet::new();
        for container in parts
            .engine
            .list(&[(LABEL_NETWORK, Some(&parts.network_label()))])
            .await?
        {
            let label = container.labels.get(LABEL_SESSION).cloned().unwrap_or_default();
            if shared.contains(&label) {
                remaining.insert(container.name);
                continue;
            }
            let record = label
                .parse::<SessionId>()
                .ok()
                .and_then(|session| parts.journal.record(&session));
            let sealed = record
                .as_ref()
                .and_then(|record| view.state.session(&record.session));
            // One that never passed its gate is none that a session has run in.
            let gated =
                launch::gate(parts, &container.name).is_ok_and(|gate| gate.exists() && !gate.is_open());
            let service = container.labels.get(LABEL_SERVICE);
            let stateless = service
                .and_then(|service| parts.config.services.get(service))
                .is_some_and(|service| service.stateless);
            let found = Found {
                name: &container.name,
                running: container.running,
                passed: container.started_at.is_some() && !gated,
                stateless,
            };
            let fate = fate(found, record.as_deref(), sealed, parts.me);
            if fate.stop {
                tracing::warn!(
                    container = container.name,
                    "runs, but its session is not this node's; stopping it"
                );
                let signal = blosm_migrate::service::StopSignal::SigTerm;
                let stopped = parts
                    .engine
                    .stop(&container.id, signal, Duration::from_secs(2))
                    .await;
                if let Err(error) = stopped {
                    // It stays a stranger: its session's task, or the next start, stops it.
                    tracing::error!(container = container.name, %error, "can't be stopped; stop it by hand");
                }
            }
            if fate.remove {
                tracing::info!(
                    container = container.name,
                    "left by an attempt that ended; removing it"
                );
                match launch::remove(parts, &container.name, true).await {
                    Ok(()) => continue,
                    Err(error) => tracing::warn!(container = container.name, %error, "can't be removed"),
                }
            }
            remaining.insert(container.name);
        }
        Ok(remaining)
    }

    pub(super) fn adopt_booking(&self, record: &Record) {
        let parts = &self.0.parts;
        if let Some(service) = parts.config.services.get(&record.service) {
            let mut bookings = parts.bookings();
            bookings.adopt(
                BookingKey::Session(record.session.0),
                super::super::amount(service),
            );
        }
    }
}
