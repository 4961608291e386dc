//! The disk under the engine: how full it may get, and which images go when it is fuller.
//!
//! Only what blosm itself has brought is ever removed: `blosm-session:...`, `blosm-base:...` and the bases that
//! [`super::brought`] remembers, and of those only what no container, no session and no declared service needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blosm_migrate::docker::{EngineError, NamedImage};
use blosm_migrate::resources::{Readings, ResourceError, disk};
use bytesize::ByteSize;

use super::brought::Arrival;
use super::{BASE_REPOSITORY, IMAGE_REPOSITORY, MigrationOutcome};
use crate::parts::Parts;

/// Between two looks at the disk.
const LOOK: Duration = Duration::from_secs(60);
/// Younger images may belong to an attempt that is not written down anywhere yet, in seconds.
const YOUNG_S: u64 = 600;
/// What the disks are called.
const ENGINE: &str = "this node's engine";
const DATA: &str = "this node's data directory";
/// Digits of an attempt that the names of its images hold at least.
const ATTEMPT_DIGITS: usize = 8;

/// Nothing is fetched for a session now.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskLow {
    /// Too little is free.
    #[error(
        "{} of {} are free under {place}, and with less than {} ({key}) nothing is fetched; remove images or files there",
        ByteSize::b(*free), ByteSize::b(*total), ByteSize::b(*least)
    )]
    Low {
        /// Which disk.
        place: &'static str,
        /// What sets the least.
        key: &'static str,
        /// Bytes free.
        free: u64,
        /// Bytes of the file system.
        total: u64,
        /// Bytes that have to be free.
        least: u64,
    },
    /// What is on its way does not fit.
    #[error("{} are to come, and of the {} that are free under {place}, {} stay free (migration.claim_free)",
        ByteSize::b(*bytes), ByteSize::b(*free), ByteSize::b(*least)
    )]
    TooMuch {
        /// Which disk.
        place: &'static str,
        /// What is to come.
        bytes: u64,
        /// Bytes free.
        free: u64,
        /// Bytes that have to stay free.
        least: u64,
    },
    /// It is not known.
    #[error(transparent)]
    Unreadable(#[from] ResourceError),
}

/// Keeps the disk under the engine from filling up. One sweep at a time.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    sweeping: tokio::sync::Mutex<()>,
}

impl Budget {
    /// Whether layers may be fetched now; what can be removed to that end is removed first.
    pub(super) async fn may_stage(&self, parts: &Parts) -> Result<(), DiskLow> {
        let least = |readings: &Readings| share(readings.disk_total, parts.config.migration.stage_free);
        let mut readings = parts.readings()?;
        if readings.disk_free < least(&readings) {
            self.sweep(parts).await;
            readings = parts.readings()?;
        }
        let least = least(&readings);
        if readings.disk_free < least {
            return Err(DiskLow::Low {
                place: ENGINE,
                key: "migration.stage_free",
                free: readings.disk_free,
                total: readings.disk_total,
                least,
            });
        }
        Ok(())
    }

    /// Whether so many bytes more may come: they go through the data directory, where the session journal needs its room, to
    /// the engine.
    pub(super) fn may_take(&self, parts: &Parts, bytes: u64) -> Result<(), DiskLow> {
        let config = &parts.config;
        let engine = parts.engine.root_dir();
        for (place, root) in [(ENGINE, engine.as_path()), (DATA, &config.data_dir)] {
            fits(place, disk(root)?, config.migration.claim_free, bytes)?;
        }
        Ok(())
    }

    /// Removes what is not needed, oldest first, until enough is free.
    async fn sweep(&self, parts: &Parts) {
        let _one = self.sweeping.lock().await;
        let enough = |readings: &Readings| {
            readings.disk_free >= share(readings.disk_total, parts.config.migration.stage_free)
        };
        match parts.readings() {
            Ok(readings) if !enough(&readings) => {
                tracing::warn!(free = %ByteSize::b(readings.disk_free), total = %ByteSize::b(readings.disk_total), "little is free under the engine; removing what blosm brought and nothing needs");
            }
            _ => return,
        }
        let candidates = match removable(parts, YOUNG_S).await {
            Ok(candidates) => candidates,
            Err(error) => {
                tracing::warn!(%error, "the engine does not say which images it holds; nothing is removed");
                return;
            }
        };
        for name in candidates {
            remove(parts, &name).await;
            if parts.readings().is_ok_and(|readings| enough(&readings)) {
                return;
            }
        }
    }
}

/// Looks at the disk until the node stops.
pub(super) async fn keep(parts: Arc<Parts>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return,
            _ = look.tick() => parts.budget.sweep(&parts).await,
        }
    }
}

/// Whether `bytes` may come to a disk, of which a share stays free.
fn fits(place: &'static str, (free, total): (u64, u64), stays_free: f64, bytes: u64) -> Result<(), DiskLow> {
    let least = share(total, stays_free);
    if free < least {
        return Err(DiskLow::Low {
            place,
            key: "migration.claim_free",
            free,
            total,
            least,
        });
    }
    if free - least < bytes {
        return Err(DiskLow::TooMuch {
            place,
            bytes,
            free,
            least,
        });
    }
    Ok(())
}

/// That share of so many bytes.
pub(super) fn share(total: u64, share: f64) -> u64 {
    // A file system is far below 2^53 bytes, and a share between 0 and 1.
    (total as f64 * share) as u64
}

/// Names of images that blosm has brought, that are older than `young_s` seconds and that nothing needs, oldest first.
pub(super) async fn removable(parts: &Parts, young_s: u64) -> Result<Vec<String>, EngineError> {
    let images = parts.engine.named_images().await?;
    let mut needs = Needs {
        images: parts.engine.images_in_use().await?,
        ..Needs::default()
    };
    for record in parts.journal.records() {
        let containers = record
            .container
            .iter()
            .chain(record.applied.as_ref().map(|applied| &applied.container))
            .chain(record.stale.iter().map(|stale| &stale.container));
        needs
            .names
            .extend(containers.map(|container| container.image.clone()));
    }
    for service in parts.config.services.values() {
        needs.names.insert(service.image.reference.clone());
        needs.names.insert(base_name(&service.image.config_digest.0));
        needs.images.insert(service.image.config_digest.to_string());
    }
    let reports = parts.reports.all();
    let running = reports
        .into_iter()
        .filter(|report| report.outcome == MigrationOutcome::Running);
    needs.attempts = running
        .map(|report| report.id.chars().take(ATTEMPT_DIGITS).collect())
        .collect();
    let now_s = super::unix_ms() / 1000;
    Ok(choose(
        &images,
        &needs,
        &parts.brought.all(),
        now_s.saturating_sub(young_s),
    ))
}

/// Removes an image by a name that [`removable`] has given.
pub(super) async fn remove(parts: &Parts, name: &str) {
    if let Some(arrival) = parts.brought.all().get(name) {
        match parts.engine.image(name).await {
            Ok(Some(image)) if image.identity.config_digest.to_string() == arrival.config_digest => {}
            // The name means what somebody else has loaded since.
            Ok(_) => return parts.brought.forget(name).await,
            Err(error) => {
                tracing::debug!(image = name, %error, "an image is not known well enough to be removed");
                return;
            }
        }
    }
    match parts.engine.remove_image(name, false).await {
        Ok(()) => {
            tracing::info!(image = name, "nothing needs it; removed");
            parts.brought.forget(name).await;
        }
        Err(error) => tracing::debug!(image = name, %error, "an image is left"),
    }
}

/// The name of a pinned base whose own name means another image in this engine.
pub(super) fn base_name(config_digest: &[u8; 32]) -> String {
    format!("{BASE_REPOSITORY}:{}", hex::encode(&config_digest[..6]))
}

/// What keeps an image.
#[derive(Debug, Default)]
struct Needs {
    /// Engine ids.
    images: BTreeSet<String>,
    /// References, or ids where a reference may be one.
    names: BTreeSet<String>,
    /// First digits of attempts that are at work.
    attempts: Vec<String>,
}

/// The names to remove, oldest first; only of what came before `before_s`.
fn choose(
    images: &[NamedImage],
    needs: &Needs,
    brought: &BTreeMap<String, Arrival>,
    before_s: u64,
) -> Vec<String> {
    let mut chosen = Vec::new();
    for image in images {
        let needed = needs.images.contains(&image.id) || needs.names.contains(&image.id);
        for name in &image.names {
            let arrived = brought.get(name).map(|arrival| arrival.unix_s);
            let ours = arrived.is_some() || of(IMAGE_REPOSITORY, name) || of(BASE_REPOSITORY, name);
            let age = arrived.unwrap_or(image.created_unix_s);
            let at_work = needs
                .attempts
                .iter()
                .any(|attempt| name.contains(attempt.as_str()));
            if ours && !needed && !needs.names.contains(name) && !at_work && age <= before_s {
                chosen.push((age, name.clone()));
            }
        }
    }
    chosen.sort();
    chosen.into_iter().map(|(_, name)| name).collect()
}

/// Whether an image's name is in that repository.
pub(super) fn of(repository: &str, name: &str) -> bool {
    name.strip_prefix(repository)
        .is_some_and(|tag| tag.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, name: &str, created_unix_s: u64) -> NamedImage {
        NamedImage {
            id: id.into(),
            names: vec![name.into()],
            created_unix_s,
        }
    }

    fn arrival(unix_s: u64) -> Arrival {
        Arrival {
            config_digest: "sha256:x".into(),
            unix_s,
        }
    }

    #[test]
    fn only_what_blosm_brought_and_nothing_needs_goes_oldest_first() {
        let images = [
            image("1", "operators/own:1", 1),
            image("2", "blosm-session:new", 30),
            image("3", "blosm-session:old", 10),
            image("4", "blosm-base:abc", 20),
            // Built long ago, brought lately.
            image("5", "example/counter:1", 2),
            image("6", "blosm-sessions-of-mine:1", 1),
        ];
        let brought = BTreeMap::from([("example/counter:1".to_owned(), arrival(25))]);
        let chosen = choose(&images, &Needs::default(), &brought, 1000);
        assert_eq!(
            chosen,
            [
                "blosm-session:old",
                "blosm-base:abc",
                "example/counter:1",
                "blosm-session:new"
            ]
        );
        let young = choose(&images, &Needs::default(), &brought, 20);
        assert_eq!(young, ["blosm-session:old", "blosm-base:abc"]);
    }

    #[test]
    fn what_is_needed_stays() {
        let images = [
            image("1", "blosm-session:in-a-container", 1),
            image("2", "blosm-session:named-by-a-record", 1),
            image("sha256:3", "blosm-base:of-a-service", 1),
            image("4", "blosm-session:0011223344556677-base", 1),
            image("5", "blosm-session:free", 1),
        ];
        let needs = Needs {
            images: ["1".to_owned(), "sha256:3".to_owned()].into(),
            names: ["blosm-session:named-by-a-record".to_owned()].into(),
            attempts: vec!["00112233".into()],
        };
        assert_eq!(
            choose(&images, &needs, &BTreeMap::new(), 1000),
            ["blosm-session:free"]
        );
    }

    #[test]
    fn an_image_with_a_name_of_the_operators_loses_only_ours() {
        let both = NamedImage {
            id: "1".into(),
            names: vec!["operators/own:1".into(), "blosm-base:abc".into()],
            created_unix_s: 1,
        };
        assert_eq!(
            choose(&[both], &Needs::default(), &BTreeMap::new(), 1000),
            ["blosm-base:abc"]
        );
    }

    #[test]
    fn a_share_of_a_disk() {
        assert_eq!(share(1000, 0.05), 50);
        assert_eq!(share(1000, 0.0), 0);
    }

    #[test]
    fn the_refusal_says_what_to_change() {
        let low = DiskLow::Low {
            place: ENGINE,
            key: "migration.stage_free",
            free: 5 << 30,
            total: 100 << 30,
            least: 10 << 30,
        };
        assert_eq!(
            low.to_string(),
            "5.0 GiB of 100.0 GiB are free under this node's engine, and with less than 10.0 GiB (migration.stage_free) nothing is fetched; remove images or files there"
        );
    }

    #[test]
    fn what_comes_leaves_the_share_that_stays_free() {
        let of = |free, bytes| fits(DATA, (free, 1000), 0.05, bytes);
        assert!(of(60, 10).is_ok());
        assert!(matches!(of(60, 11), Err(DiskLow::TooMuch { least: 50, .. })));
        assert!(matches!(of(49, 0), Err(DiskLow::Low { least: 50, .. })));
        assert_eq!(
            of(60, 11).unwrap_err().to_string(),
            "11 B are to come, and of the 60 B that are free under this node's data directory, 50 B stay free (migration.claim_free)"
        );
    }
}
