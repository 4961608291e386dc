//! From the question for a session to the owner's yes: announcement, proof, judgement, claim (rule 2).

use blosm_net::peer_of_key;

use super::*;

/// How long this node's chain may take to show that a source owns its session: one round trip, and the blocks it lacks.
const CATCH_UP: Duration = Duration::from_secs(3);

impl Incoming {
    /// Rule 2: the owner announces when a member asks for the session by presenting its token.
    pub(super) async fn want(&mut self) -> Result<(Announcement, Announce), Ended> {
        self.event("announce");
        let begin = Instant::now();
        let request = SessionRequest::Want {
            session: self.visit.session,
            token: self.visit.token.clone(),
        };
        let SessionResponse::Announced(announcement) = self.ask(&request).await? else {
            return Err(Ended::OtherAnswer);
        };
        self.report.phases_ms.announce = millis(begin);
        let transaction = self
            .parts
            .transaction(&announcement.announce)
            .ok_or(Ended::OtherAnswer)?;
        let hash = transaction.hash();
        let announce = match transaction.payload {
            Payload::Announce(announce)
                if transaction.sender == self.visit.source && announce.session == self.visit.session =>
            {
                announce
            }
            _ => return Err(Ended::OtherAnswer),
        };
        self.catch_up(&announcement.pending, announce.epoch).await?;
        self.announced = Some(hash);
        self.epoch = announce.epoch;
        self.report.note("announce", hash);
        self.report.service = announce.metadata.service.clone();
        Ok((announcement, announce))
    }

    /// Proves that the source owns the session. A block that tells so may be on its way still, or have passed by a node that
    /// has just connected: the source is asked for what it has.
    async fn catch_up(&self, pending: &[Pending], epoch: u64) -> Result<(), Ended> {
        let mut chain = self.parts.chain.subscribe();
        let asking = async {
            loop {
                chain.borrow_and_update();
                match self.prove_owner(pending, epoch) {
                    Err(Ended::NotProven) => {}
                    proven => return proven,
                }
                self.parts.chain.on_connected(peer_of_key(&self.visit.source.0));
                if chain.changed().await.is_err() {
                    return Err(Ended::NotProven);
                }
            }
        };
        tokio::time::timeout(CATCH_UP, asking)
            .await
            .unwrap_or(Err(Ended::NotProven))
    }

    /// A member's word alone does not make it the owner: else it could have a container started here that runs
    /// elsewhere.
    fn prove_owner(&self, pending: &[Pending], epoch: u64) -> Result<(), Ended> {
        let facts = facts(self.visit.session, pending, self.parts.chain_id()).ok_or(Ended::OtherAnswer)?;
        let opener = self
            .visit
            .token
            .as_deref()
            .and_then(|token| Token::parse(token).ok())
            .map(|token| token.opener());
        let view = self.parts.chain.snapshot();
        let proven = proven_owner(view.state.session(&self.visit.session), opener, &facts);
        if proven == Some((self.visit.source, epoch)) {
            Ok(())
        } else {
            Err(Ended::NotProven)
        }
    }

    pub(super) async fn evaluate(
        &mut self,
        announce: &Announce,
        service: Option<&Service>,
    ) -> Result<Verdict, Ended> {
        let begin = Instant::now();
        let verdict = match judge::judge(&self.parts, &announce.metadata, service).await {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::warn!(%error, "this node can't read its own resources; it claims nothing");
                return Err(Ended::VerdictFalse);
            }
        };
        self.report.phases_ms.evaluate = millis(begin);
        self.report.verdict = verdict.accepted;
        self.report.verdict_detail = judge::detail(&verdict);
        Ok(verdict)
    }

    /// The method that this node would use. Why it can't be the one that is wanted goes into the report.
    pub(super) fn wanted(&mut self, service: Option<&Service>) -> Method {
        let configured = self.parts.config.migration.method;
        let asked = self.visit.how.method.unwrap_or(configured);
        let wanted = self.parts.methods.fitting(asked, service);
        let no_images = self.parts.methods.no_images();
        if let (Method::Image, Some(why)) = (asked, no_images) {
            self.took_another(Method::Image, why);
        }
        let wanted = match (wanted, self.parts.methods.live()) {
            (Method::Live, Live::Off(why)) if no_images.is_none() => {
                self.fall_back(why);
                Method::Image
            }
            // What is not proven yet is tried.
            _ => wanted,
        };
        // Until the owner has agreed to one; of a session that stays, what it would have been.
        self.method = wanted;
        self.report.method = wanted.to_string();
        wanted
    }

    pub(super) fn fall_back(&mut self, why: NoLive) {
        self.took_another(Method::Live, why);
    }

    fn took_another(&mut self, wanted: Method, why: impl fmt::Display) {
        self.instead_of = Some(wanted);
        self.report.fallback = Some(format!("{wanted}: {why}"));
    }

    /// Rule 2: to the owner and to the proposer at the same time. Gives the method that the owner agrees to; none when
    /// the verdict is false.
    pub(super) async fn claim(
        &mut self,
        announce: &Announce,
        verdict: Verdict,
        wanted: Method,
    ) -> Result<Option<Method>, Ended> {
        let claim = Claim {
            session: self.visit.session,
            epoch: announce.epoch,
            attempt: self.visit.attempt,
            verdict,
        };
        let transaction = self.parts.sign(Payload::Claim(claim));
        self.claim = transaction.encode();
        self.report.note("claim", transaction.hash());
        self.parts.reports.put(self.report.clone());
        let parts = self.parts.clone();
        tokio::spawn(async move {
            let hash = transaction.hash();
            match parts.chain.submit(transaction).await {
                Ok(height) => parts.reports.sealed(&hash, height),
                // A claim is a request, not a lock: the hand-over does not need it sealed.
                Err(error) => tracing::debug!(%error, "a claim is not sealed"),
            }
        });
        self.agree(wanted).await
    }

    /// Presents the claim to the owner; again, when another method has to be taken.
    pub(super) async fn agree(&mut self, wanted: Method) -> Result<Option<Method>, Ended> {
        let request = SessionRequest::Claim {
            claim: self.claim.clone(),
            method: wanted,
        };
        let accepted = match self.ask(&request).await? {
            SessionResponse::Agreed => None,
            SessionResponse::Accepted { method, no_live } => {
                if let Some(why) = no_live {
                    self.fall_back(why);
                }
                self.method = method;
                self.report.method = method.to_string();
                Some(method)
            }
            _ => return Err(Ended::OtherAnswer),
        };
        Ok(accepted)
    }
}
