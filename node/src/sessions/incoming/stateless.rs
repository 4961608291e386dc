//! A stateless service: a container of its own serves here before the source is asked to let go.

use super::*;

impl Incoming {
    /// Creates and starts a container and waits until it is healthy. Then the source only has to sign.
    pub(super) async fn by_stateless(
        &mut self,
        service: &Arc<Service>,
        base: &Base,
        epoch: u64,
    ) -> Result<Arrived, Ended> {
        self.event("start");
        let begin = Instant::now();
        let (name, session) = (self.container_name(epoch), self.visit.session);
        let image = self.parts.engine.pinned(&service.image).await?.id;
        launch::create(&self.parts, service, base, &session, &name, &image, None).await?;
        let running = launch::start(&self.parts, service, &name).await?;
        self.parts.engine.sync().await?;
        self.report.phases_ms.stage += millis(begin);
        let (stopped, last_answer_before) = self.cut().await?;
        let FinalState::Stateless = stopped.state else {
            return Err(Ended::OtherAnswer);
        };
        Ok(Arrived {
            container: name,
            image,
            root: manifest_root(&session, epoch, &base.identity),
            prepared: Some(running),
            last_answer_before,
        })
    }
}
