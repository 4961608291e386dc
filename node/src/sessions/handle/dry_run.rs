//! `blosm migrate --dry-run`: the container is measured here, the destination judges it, and nothing follows.

use super::*;
use crate::sessions::assess::{Assessment, Load, choose_method, forecast, with_volumes};
use crate::sessions::measure::{Sizing, measure};
use crate::sessions::wire::Assessed;

/// Methods that a destination may name; there are three.
const MAX_METHODS: usize = 16;
/// How long the container's sizes are waited for: the operator can wait longer than a peer.
const PATIENCE: Duration = Duration::from_secs(40);

impl SessionsHandle {
    /// What a move would do now. Books, moves and announces nothing.
    ///
    /// # Errors
    /// As for a migration; the destination's judgement is no error.
    pub async fn dry_run(
        &self,
        prefix: &str,
        to: Option<PublicKey>,
        method: Method,
    ) -> Result<Assessment, MigrateError> {
        let (session, to) = self.order(prefix, to)?;
        let parts = &self.0.parts;
        let record = parts.journal.record(&session);
        let record = record.ok_or_else(|| MigrateError::Unknown(prefix.to_owned()))?;
        let not_now = |why: String| MigrateError::Refused(why);
        let service = parts.config.services.get(&record.service);
        let service = service.ok_or_else(|| not_now("this node does not declare the service".into()))?;
        let container = record.container.as_ref();
        let container = container.ok_or_else(|| not_now("the session has no container yet".into()))?;
        let measured = measure(parts, service, &container.name, &mut Sizing::default(), PATIENCE)
            .await
            .map_err(|error| not_now(error.to_string()))?;
        let image = measured.image;
        let writable = measured.metadata.writable_size;
        let diff_ids = &image.identity.diff_ids;
        let request = SessionRequest::Assess {
            metadata: Box::new(measured.metadata),
            layers: diff_ids.iter().map(|layer| layer.0).collect(),
        };
        let assessed = match notice::ask(parts, to, &request).await {
            Ok(SessionResponse::Assessed(assessed)) => check(assessed, diff_ids.len()),
            Ok(SessionResponse::Refused(refusal)) => return Err(not_now(refusal.to_string())),
            Ok(_) => None,
            Err(error) => return Err(not_now(error.to_string())),
        };
        let assessed = assessed.ok_or_else(|| not_now(Refusal::Malformed.to_string()))?;
        let sizes = parts.engine.layer_sizes(&image.id, diff_ids.len()).await;
        let sizes = sizes.map_err(|error| not_now(error.to_string()))?;
        let missing = writable.saturating_add(lacking_bytes(&assessed.lacking, sizes.as_deref(), image.size));
        let wanted = parts.methods.fitting(method, Some(service));
        let (method, fallback, why) = match parts.methods.no_images() {
            None => {
                let here = parts.methods.available();
                let chosen = choose_method(wanted.as_str(), &here, &assessed.methods);
                if measured.volumes.is_empty() {
                    chosen
                } else {
                    with_volumes(chosen)
                }
            }
            Some(why) => {
                let fallback = (method == Method::Image).then(|| method.to_string());
                (wanted.to_string(), fallback, why.to_owned())
            }
        };
        let load = Load {
            method: &method,
            missing,
            writable,
        };
        let (source, destination) = (parts.me.to_string(), to.to_string());
        let forecast = forecast(
            load,
            &source,
            &destination,
            &parts.reports.all(),
            parts.links.measured(&to),
        );
        Ok(Assessment {
            dry_run: true,
            session: session.to_string(),
            service: service.name.clone(),
            destination_label: self.label(to),
            verdict: assessed.verdict.accepted,
            verdict_detail: judge::detail(&assessed.verdict),
            fallback,
            why,
            layers: diff_ids.len(),
            missing_layers: assessed.lacking.len(),
            missing_bytes: missing,
            writable_bytes: writable,
            source,
            destination,
            method,
            forecast,
        })
    }
}

/// A peer's answer as far as it can be one: each layer once, in order, and a list of methods of a sane length.
fn check(assessed: Assessed, layers: usize) -> Option<Assessed> {
    let ordered = assessed.lacking.is_sorted_by(|a, b| a < b);
    let within = assessed
        .lacking
        .last()
        .is_none_or(|last| (*last as usize) < layers);
    (ordered && within && assessed.methods.len() <= MAX_METHODS).then_some(assessed)
}

/// Bytes of the layers with those indices. Without sizes by layer it is the whole image as soon as one is lacking: rather
/// too much than too little.
fn lacking_bytes(lacking: &[u32], sizes: Option<&[u64]>, whole: u64) -> u64 {
    match sizes {
        Some(sizes) => lacking.iter().filter_map(|at| sizes.get(*at as usize)).sum(),
        None if lacking.is_empty() => 0,
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use blosm_ledger::Verdict;

    use super::*;

    fn assessed(lacking: Vec<u32>, methods: usize) -> Assessed {
        Assessed {
            verdict: Verdict {
                memory: true,
                cpu: true,
                gpu: true,
                service: true,
                hard: None,
                accepted: true,
            },
            lacking,
            methods: vec!["image".into(); methods],
        }
    }

    #[test]
    fn only_an_answer_that_fits_the_question_is_believed() {
        assert!(check(assessed(vec![], 1), 3).is_some());
        assert!(check(assessed(vec![0, 2], 1), 3).is_some());
        assert!(check(assessed(vec![0, 3], 1), 3).is_none(), "no such layer");
        assert!(check(assessed(vec![1, 1], 1), 3).is_none(), "twice");
        assert!(check(assessed(vec![], 17), 3).is_none());
    }

    #[test]
    fn bytes_that_are_lacking() {
        assert_eq!(lacking_bytes(&[0, 2], Some(&[1, 10, 100]), 111), 101);
        assert_eq!(lacking_bytes(&[], None, 111), 0);
        assert_eq!(lacking_bytes(&[1], None, 111), 111);
    }
}
