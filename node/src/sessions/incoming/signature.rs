//! Waiting for the signature: whether the session has moved may be known to the source alone (rule 4).

use super::*;

/// Between two questions.
const LOOK: Duration = Duration::from_millis(200);

/// What the source has signed.
pub(super) enum Signed {
    /// It has answered with it.
    Answered {
        /// The hand-over.
        handover: Pending,
        /// What is not sealed before it.
        pending: Vec<Pending>,
    },
    /// The session's task has taken it up already: the source repeats what it has signed, and so do blocks.
    Acquired(Hash),
}

impl Signed {
    /// The hand-over's hash.
    pub(super) fn handover(&self) -> Hash {
        match self {
            Self::Answered { handover, .. } => handover.hash,
            Self::Acquired(hash) => *hash,
        }
    }
}

/// Says READY by `ask` until it is answered, for that long: the source signs once and says the same again. `acquired` gives
/// the hand-over that has come in another way.
///
/// An answer that was lost says nothing of the session, so it ends nothing here before the time is over.
pub(super) async fn wait<Fut>(
    ask: impl Fn() -> Fut,
    acquired: impl Fn() -> Option<Hash>,
    limit: Duration,
) -> Result<Signed, Ended>
where
    Fut: Future<Output = Result<SessionResponse, Ended>>,
{
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(SessionResponse::HandedOver { handover, pending }) => {
                return Ok(Signed::Answered { handover, pending });
            }
            Ok(_) => return Err(Ended::OtherAnswer),
            Err(error) => {
                if let Some(handover) = acquired() {
                    return Ok(Signed::Acquired(handover));
                }
                if !leaves_open(&error) || begin.elapsed() >= limit {
                    return Err(error);
                }
                tracing::debug!(%error, "whether the source has signed is not known yet");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The source did not say whether it has signed, or is just stopping or starting.
fn leaves_open(error: &Ended) -> bool {
    matches!(
        error,
        Ended::NoAnswer(_) | Ended::Refused(Refusal::NotReady | Refusal::Busy)
    )
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const HASH: Hash = Hash([7; 32]);
    const LONG: Duration = Duration::from_secs(3600);

    fn late() -> Result<SessionResponse, Ended> {
        Err(NoAnswer::Late.into())
    }

    fn handed_over() -> Result<SessionResponse, Ended> {
        Ok(SessionResponse::HandedOver {
            handover: Pending {
                hash: HASH,
                bytes: Vec::new(),
            },
            pending: Vec::new(),
        })
    }

    /// Answers with these, last first.
    async fn answered(
        answers: Vec<Result<SessionResponse, Ended>>,
        acquired: impl Fn() -> Option<Hash>,
        limit: Duration,
    ) -> Result<Signed, Ended> {
        let answers = RefCell::new(answers);
        let ask = || std::future::ready(answers.borrow_mut().pop().expect("asked too often"));
        wait(ask, acquired, limit).await
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again() {
        let busy = Err(Refusal::NotReady.into());
        let signed = answered(vec![handed_over(), busy, late()], || None, LONG).await;
        assert!(matches!(signed, Ok(Signed::Answered { .. })));
        assert_eq!(signed.ok().map(|signed| signed.handover()), Some(HASH));
    }

    #[tokio::test]
    async fn what_came_in_another_way_has_moved_the_session() {
        let looked = Cell::new(0);
        let acquired = || (looked.replace(looked.get() + 1) == 1).then_some(HASH);
        let signed = answered(vec![late(), late()], acquired, LONG).await;
        assert!(matches!(signed, Ok(Signed::Acquired(HASH))));
        // The source may be rid of the attempt by then.
        let gone = Err(Refusal::NotOwner.into());
        let signed = answered(vec![gone], || Some(HASH), LONG).await;
        assert!(matches!(signed, Ok(Signed::Acquired(HASH))));
    }

    #[tokio::test]
    async fn a_no_is_a_no_and_no_wait_is_for_ever() {
        let void = Err(Refusal::Void.into());
        let ended = answered(vec![void, late()], || None, LONG).await;
        assert!(matches!(ended, Err(Ended::Refused(Refusal::Void))));
        let ended = answered(vec![late()], || None, Duration::ZERO).await;
        assert!(matches!(ended, Err(Ended::NoAnswer(NoAnswer::Late))));
    }
}
