//! The announcement of a session, to a member that asks for it or is asked to take it (rule 2).

use blosm_ledger::{Announce, Metadata, Transaction};

use super::super::wire::{Announcement, MoveReason};
use super::super::{MigrationOutcome, MigrationReport, notice};
use super::*;

/// How long a member that was asked to take a session may take to claim it.
const INVITATION: Duration = Duration::from_secs(60);

impl Actor {
    /// Rule 2: the container's metadata for a destination to judge, announced on the chain at the same time.
    pub(super) async fn want(
        &mut self,
        from: PublicKey,
        token_presented: bool,
    ) -> Result<SessionResponse, Refusal> {
        let Adoption::Mine { epoch } = self.adoption() else {
            return Err(Refusal::NotOwner);
        };
        let invited = self.invited.is_some_and(|(member, ..)| member == from);
        if !token_presented && !invited {
            return Err(Refusal::NotAuthorised);
        }
        self.tell_source(Input::Want { invited })?;
        let record = self.record();
        let service = self.service().ok_or(Refusal::NotReady)?;
        let live = self.live.as_ref().ok_or(Refusal::NotReady)?;
        let announcement = self
            .announcement(&service, &live.running.container.clone(), epoch, from)
            .await;
        let (announce, running) = announcement.map_err(|error| {
            tracing::warn!(session = %self.id, %error, "the container can't be announced");
            Refusal::NotReady
        })?;
        let bytes = announce.encode();
        self.announced = Some(announce.hash());
        let chain = self.parts.chain.clone();
        // Staging waits for neither seal nor confirmations (rule 2).
        tokio::spawn(async move { chain.announce(announce).await });
        self.welcome.insert(from);
        Ok(SessionResponse::Announced(Announcement {
            pending: record.pending.clone(),
            announce: bytes,
            service: service.name.clone(),
            running,
        }))
    }

    pub(super) async fn announcement(
        &self,
        service: &Service,
        container: &str,
        epoch: u64,
        to: PublicKey,
    ) -> Result<(Transaction, [u8; 32]), LaunchError> {
        let base = launch::base(&self.parts, service).await?;
        let usage = self.parts.docker.usage(container).await?;
        let sizes = self.parts.docker.sizes(container).await?;
        let (id, image) = self.running_image(container).await?;
        let (gpu_usage, gpu_memory) = self.gpu(service);
        let metadata = Metadata {
            source: self.parts.me,
            addresses: self
                .parts
                .config
                .net
                .advertise
                .iter()
                .map(ToString::to_string)
                .collect(),
            container_id: id,
            service: service.name.clone(),
            declaration_hash: service.declaration_hash(),
            total_size: sizes.total,
            writable_size: sizes.writable,
            memory: usage.memory,
            cpu_usage: u32::try_from(usage.cpu_milli).unwrap_or(u32::MAX),
            gpu_usage,
            gpu_memory,
            architecture: base.architecture.clone(),
            config_digest: base.identity.config_digest.0,
        }
        .rounded();
        let announce = Announce {
            session: self.id,
            epoch,
            metadata,
            invited: vec![to],
        };
        Ok((
            self.parts.sign(Payload::Announce(announce)),
            image.identity.config_digest.0,
        ))
    }

    /// The container's id and the image that it was created from.
    pub(super) async fn running_image(&self, container: &str) -> Result<(String, Image), LaunchError> {
        let found = self.parts.docker.inspect(container).await?;
        let found = found.ok_or_else(|| LaunchError::Absent(container.to_owned()))?;
        let image = self.parts.docker.image(&found.image).await?;
        Ok((found.id, image.ok_or(LaunchError::Absent(found.image))?))
    }

    /// What the service uses of the GPUs, in thousandths of a device and bytes; nothing when it declares none.
    ///
    /// Devices are shared without accounting per container, so a service that uses GPUs is announced with the devices'
    /// own load: too much rather than too little.
    pub(super) fn gpu(&self, service: &Service) -> (u32, u64) {
        if service.resources.gpu == 0 {
            return (0, 0);
        }
        match self.parts.readings() {
            Ok(readings) => (
                readings
                    .gpus
                    .iter()
                    .map(|gpu| 1000_u32.saturating_sub(gpu.free_milli))
                    .sum(),
                service.resources.gpu_memory,
            ),
            Err(_) => (1000 * service.resources.gpu, service.resources.gpu_memory),
        }
    }

    /// `blosm migrate`: names the member in the next announcement and asks it to come.
    pub(super) async fn invite(&mut self, to: PublicKey) -> Result<Attempt, Refusal> {
        if !matches!(self.adoption(), Adoption::Mine { .. }) {
            return Err(Refusal::NotOwner);
        }
        self.tell_source(Input::Want { invited: true })?;
        let attempt = super::super::random();
        self.invited = Some((to, attempt, Instant::now()));
        let request = SessionRequest::Invite {
            session: self.id,
            attempt,
            reason: MoveReason::Operator,
        };
        match notice::ask(&self.parts, to, &request).await {
            Ok(SessionResponse::Agreed) => {
                // Into the book at once, so that the operator can follow it; the destination's replaces it.
                let reason = MoveReason::Operator;
                let mut report = MigrationReport::begin(&attempt, self.id, self.parts.me, to, reason);
                report.service = self.record().service.clone();
                self.parts.reports.put(report);
                Ok(attempt)
            }
            Ok(SessionResponse::Refused(refusal)) => Err(refusal),
            Ok(_) => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::NotReady),
        }
    }

    /// A member that was asked to come and has neither claimed nor said why not is not waited for.
    pub(super) fn give_up_invitation(&mut self) {
        let Some((to, attempt, since)) = self.invited else {
            return;
        };
        let claimed = self
            .source
            .as_ref()
            .is_some_and(|source| source.may_pull(&attempt, to));
        if claimed || since.elapsed() < INVITATION {
            return;
        }
        self.invited = None;
        self.parts.reports.update(&hex::encode(attempt), |report| {
            if report.outcome == MigrationOutcome::Running {
                report.outcome = MigrationOutcome::Aborted;
                report.error = Some("the destination was asked and did not come; see its log".into());
            }
        });
    }
}
