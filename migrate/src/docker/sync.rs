//! Making durable what an engine has written. Engines leave it to the kernel, which takes half a minute for it.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{Docker, EngineError, Store};

impl Docker {
    /// Makes durable what the engine has written so far: images that were loaded, containers that were created.
    ///
    /// # Errors
    /// The disk failed. Where the engine's folder is closed to this process the kernel does not say so.
    pub async fn sync(&self) -> Result<(), EngineError> {
        let root = match self.info().store {
            Store::Classic => Some(self.info().root_dir.clone()),
            // containerd has a folder of its own, which the engine does not name.
            Store::Containerd => None,
        };
        tokio::task::spawn_blocking(move || sync(root.as_deref()))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| EngineError::Sync { source })
    }
}

/// The file system of `root`; all of them where it is not known or may not be read, which takes no rights.
fn sync(root: Option<&Path>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match root.map(|root| rustix::fs::open(root, flags, Mode::empty())) {
        Some(Ok(root)) => Ok(rustix::fs::syncfs(root)?),
        Some(Err(_)) | None => {
            rustix::fs::sync();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_syncs_whether_it_sees_the_engines_folder_or_not() {
        let dir = tempfile::tempdir().unwrap();
        sync(Some(dir.path())).unwrap();
        sync(Some(&dir.path().join("not/there"))).unwrap();
        sync(None).unwrap();
    }
}
