//! What attempts of an earlier process have left: cleared at the start, when no attempt is at work.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::{IMAGE_REPOSITORY, budget};
use crate::parts::Parts;

/// Removes images that no session and no container names, and folders of gates whose container is gone. What can't be
/// removed is logged and stays.
pub(super) async fn clear(parts: &Parts, containers: &BTreeSet<String>) {
    images(parts).await;
    // An engine can't start a container again whose gate is gone.
    folders(&parts.config.data_dir.join("gates"), |name| {
        !containers.contains(name)
    });
}

async fn images(parts: &Parts) {
    match budget::removable(parts, 0).await {
        Ok(names) => {
            // Bases cost time to fetch and may be wanted again: they go when the disk is full.
            for name in names.iter().filter(|name| budget::of(IMAGE_REPOSITORY, name)) {
                budget::remove(parts, name).await;
            }
        }
        Err(error) => tracing::warn!(%error, "images of earlier attempts are left"),
    }
}

/// Removes those folders and files directly below `parent` that are left, by their name.
fn folders(parent: &Path, is_left: impl Fn(&str) -> bool) {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(folder = %parent.display(), %error, "can't be looked through");
            }
            return;
        }
    };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if !is_left(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let removed = if meta.is_dir() {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        };
        match removed {
            Ok(()) => {
                tracing::info!(path = %entry.path().display(), "left by an attempt that ended; removed")
            }
            Err(error) => tracing::warn!(path = %entry.path().display(), %error, "can't be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["blosm-a-0-1", "blosm-b-0-1"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("gate"), "").unwrap();
        }
        std::fs::write(dir.path().join("stray"), "").unwrap();
        folders(dir.path(), |name| name != "blosm-a-0-1");
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["blosm-a-0-1"]);
        folders(&dir.path().join("absent"), |_| true);
    }
}
