//! What sessions on their way here have sent so far: a folder each, kept for the next attempt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blosm_ledger::SessionId;
use blosm_migrate::recreate::short_id;
use blosm_migrate::transfer::Pack;

use crate::parts::Parts;

/// A folder goes when nothing has come for so long.
const KEPT: Duration = Duration::from_secs(3600);
/// Between two looks for such folders.
const LOOK: Duration = Duration::from_secs(600);
/// Most bytes of chunks that are kept of one session; what comes beyond that is used, and sent again to the next attempt.
const MAX_PACK: u64 = 16 << 30;

/// The folder of a session.
pub(super) fn of(data_dir: &Path, session: &SessionId) -> PathBuf {
    data_dir.join("incoming").join(short_id(&session.0))
}

/// Makes a session's folder ready and opens its pack.
pub(super) async fn open(folder: &Path) -> io::Result<Arc<Pack>> {
    let folder = folder.to_owned();
    let opening = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        // Layers that were not whole when an earlier process ended; their chunks are in the pack.
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "part")
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        Pack::open(&folder, MAX_PACK).map(Arc::new)
    });
    opening.await.map_err(io::Error::other)?
}

/// Removes, until the node stops, folders in which nothing has come for an hour.
pub(in crate::sessions) async fn sweep(parts: Arc<Parts>) {
    let incoming = parts.config.data_dir.join("incoming");
    loop {
        let (folders, now) = (incoming.clone(), SystemTime::now());
        if let Err(error) = tokio::task::spawn_blocking(move || remove_old(&folders, now)).await {
            tracing::warn!(%error, "old folders of sessions on their way here are left");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = parts.stop.cancelled() => return,
        }
    }
}

fn remove_old(incoming: &Path, now: SystemTime) {
    // No attempt was ever made.
    let Ok(folders) = std::fs::read_dir(incoming) else {
        return;
    };
    for folder in folders.flatten() {
        let folder = folder.path();
        let old = now
            .duration_since(last_change(&folder))
            .is_ok_and(|age| age > KEPT);
        if old && let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "an old folder is left");
        }
    }
}

/// When something of it was last written.
fn last_change(folder: &Path) -> SystemTime {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| modified(&file.path()))
        .chain(modified(folder))
        .max()
        .unwrap_or_else(SystemTime::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_in_which_nothing_came_for_an_hour_go() {
        let incoming = tempfile::tempdir().unwrap();
        let (old, fresh) = (incoming.path().join("old"), incoming.path().join("fresh"));
        let now = SystemTime::now();
        for folder in [&old, &fresh] {
            std::fs::create_dir(folder).unwrap();
            let file = std::fs::File::create(folder.join("chunks.pack")).unwrap();
            file.set_modified(now + if folder == &old { Duration::ZERO } else { KEPT })
                .unwrap();
        }
        remove_old(incoming.path(), now);
        assert!(old.exists() && fresh.exists());
        remove_old(incoming.path(), now + KEPT + Duration::from_secs(60));
        assert!(!old.exists() && fresh.exists());
        remove_old(&incoming.path().join("nowhere"), now);
    }

    #[tokio::test]
    async fn a_folder_keeps_its_pack_and_loses_what_is_not_whole() {
        let data = tempfile::tempdir().unwrap();
        let folder = of(data.path(), &SessionId([0xab; 32]));
        assert!(folder.ends_with("incoming/abababababab"), "{}", folder.display());
        open(&folder).await.unwrap();
        std::fs::write(folder.join("x.part"), b"half").unwrap();
        std::fs::write(folder.join("y.layer"), b"whole").unwrap();
        let pack = open(&folder).await.unwrap();
        assert!(pack.path().exists() && folder.join("y.layer").exists());
        assert!(!folder.join("x.part").exists());
    }
}
