//! Why an attempt ended without a hand-over, for people and for metrics.

use super::*;

/// Why an attempt ended without a hand-over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the source says no: {0}")]
    Refused(#[from] Refusal),
    #[error("the source does not answer: {0}")]
    NoAnswer(#[from] NoAnswer),
    #[error("the source's answer is not what was asked for")]
    OtherAnswer,
    #[error("the source can't prove that it owns the session; this node's chain may be behind")]
    NotProven,
    #[error("this node judged that it can't take the container")]
    VerdictFalse,
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("the source committed another image than it said")]
    OtherImage,
    #[error(transparent)]
    Config(#[from] ConfigMismatch),
    #[error("a round of the source's writable layer can't be applied: {0}")]
    Helper(#[from] HelperError),
    #[error("passing a round to the helper: {0}")]
    Pipe(#[source] std::io::Error),
    #[error(
        "the service writes faster than the link carries: the last delta would take {left_ms} ms; slow it down, raise migration.max_downtime, or use --force"
    )]
    TooFast { left_ms: u128 },
    #[error(
        "{acked} of {members} members are known to hold the announcement, and this network requires 90 % before a container moves"
    )]
    Unconfirmed { acked: u32, members: u32 },
    #[error("this node has no room for the service any more")]
    NoRoom,
    #[error(transparent)]
    Disk(#[from] budget::DiskLow),
    #[error("the session is not wanted here any more")]
    Overtaken,
}

/// All words that say why a migration to this node was relayed or aborted.
pub(crate) fn migration_failures() -> Vec<&'static str> {
    let refusals = Refusal::ALL.map(Refusal::word);
    [Ended::WORDS.as_slice(), &refusals, &[UNHEALTHY]].concat()
}

/// What a container's failure to become healthy after the hand-over is called in metrics.
pub(super) const UNHEALTHY: &str = "unhealthy";

impl Ended {
    /// All that [`Ended::word`] says of what is no refusal of the source.
    const WORDS: [&str; 14] = [
        "no_answer",
        "other_answer",
        "not_proven",
        "verdict_false",
        "pull",
        "load",
        "launch",
        "other_image",
        "config",
        "helper",
        "too_fast",
        "no_room",
        "disk",
        "overtaken",
    ];

    /// Whether a disk of this node is too full for what was to come.
    pub(super) fn is_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Disk(budget::DiskLow::Unreadable(_)) => false,
            Self::Disk(_) => true,
            Self::Pull(PullError::Io { source, .. }) => {
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Whether the source has said that rounds can't carry what the container holds.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Pull(PullError::Refused(WireError::Unsupported)))
    }

    /// What it is called in metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.word(),
            _ if self.is_disk() => "disk",
            Self::NoAnswer(_) => "no_answer",
            Self::OtherAnswer => "other_answer",
            Self::NotProven => "not_proven",
            Self::VerdictFalse => "verdict_false",
            Self::Pull(_) => "pull",
            Self::Load(_) => "load",
            Self::Launch(_) => "launch",
            Self::OtherImage => "other_image",
            Self::Config(_) => "config",
            Self::Helper(_) | Self::Pipe(_) => "helper",
            Self::TooFast { .. } => "too_fast",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::NoRoom => "no_room",
            Self::Disk(_) => "disk",
            Self::Overtaken => "overtaken",
        }
    }
}

impl From<blosm_migrate::docker::EngineError> for Ended {
    fn from(error: blosm_migrate::docker::EngineError) -> Self {
        Self::Launch(error.into())
    }
}

impl From<blosm_migrate::docker::ImageError> for Ended {
    fn from(error: blosm_migrate::docker::ImageError) -> Self {
        Self::Launch(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_one_whoever_meets_it() {
        let pull = |kind: std::io::ErrorKind| {
            Ended::Pull(PullError::Io {
                path: PathBuf::from("x"),
                source: kind.into(),
            })
        };
        let full = pull(std::io::ErrorKind::StorageFull);
        assert!(full.is_disk() && full.word() == "disk");
        let other = pull(std::io::ErrorKind::PermissionDenied);
        assert!(!other.is_disk() && other.word() == "pull");
    }

    #[test]
    fn every_end_is_named_by_a_word_of_the_list() {
        let words = migration_failures();
        for ended in [
            Ended::Refused(Refusal::Volumes(None)),
            Ended::Refused(Refusal::Malformed),
            Ended::OtherAnswer,
            Ended::NotProven,
            Ended::VerdictFalse,
            Ended::OtherImage,
            Ended::TooFast { left_ms: 1 },
            Ended::Unconfirmed { acked: 1, members: 2 },
            Ended::NoRoom,
            Ended::Overtaken,
        ] {
            assert!(words.contains(&ended.word()), "{ended}: {}", ended.word());
        }
        let mut once = words.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), words.len());
    }
}
