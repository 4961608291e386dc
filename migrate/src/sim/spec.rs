//! A simulated container's folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::oracle;
use crate::gate::is_container_name;
use crate::recreate::ContainerSpec;

const SPEC: &str = "spec.json";
const STARTED: &str = "started";
const UPPER: &str = "upper";

/// What a container was created as, as far as anything here depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// 64 hex digits.
    pub(super) id: String,
    pub(super) name: String,
    /// The digest of its image.
    pub(super) image: String,
    pub(super) labels: BTreeMap<String, String>,
    /// The folder of its gate, if it has one.
    pub(super) gate: Option<PathBuf>,
    /// Reserved memory, bytes.
    pub(super) memory: u64,
    /// Reserved processor share, thousandths of a core.
    pub(super) cpu_milli: u64,
    /// The socket of the oracle that is told what its runs do, if its environment names one.
    pub(super) oracle: Option<PathBuf>,
}

impl Spec {
    pub(super) fn of(spec: &ContainerSpec) -> io::Result<Self> {
        let mut id = [0; 32];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self {
            id: hex::encode(id),
            name: spec.name.clone(),
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            gate: spec.gate.clone(),
            memory: spec.memory_reservation,
            cpu_milli: spec.cpu_milli,
            oracle: spec.env.iter().find_map(|entry| {
                let (name, value) = entry.split_once('=')?;
                (name == oracle::VARIABLE && !value.is_empty()).then(|| PathBuf::from(value))
            }),
        })
    }
}

/// A container on the disk.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    pub(super) spec: Spec,
    /// RFC 3339; none if it never was.
    pub(super) started_at: Option<String>,
}

/// Makes the folder of all containers, and removes what half-made and half-removed ones have left.
pub(super) fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

impl Folder {
    /// Makes a container's folder: whole and durable under its name, or not there.
    pub(super) fn create(dir: &Path, spec: &Spec) -> io::Result<()> {
        if !is_container_name(&spec.name) {
            return Err(io::Error::other(format!("{:?} is no container name", spec.name)));
        }
        let (path, aside) = (dir.join(&spec.name), aside(dir, &spec.name));
        if path.exists() {
            return Err(io::Error::other(format!(
                "there is a container {} already",
                spec.name
            )));
        }
        remove_if_there(&aside)?;
        fs::create_dir(&aside)?;
        fs::create_dir(aside.join(UPPER))?;
        let mut file = File::create(aside.join(SPEC))?;
        file.write_all(&serde_json::to_vec(spec)?)?;
        file.sync_all()?;
        sync(&aside)?;
        fs::rename(&aside, &path)?;
        sync(dir)
    }

    /// By name or full id.
    pub(super) fn find(dir: &Path, id: &str) -> io::Result<Option<Self>> {
        if is_container_name(id)
            && let Some(found) = Self::read(dir.join(id))?
        {
            return Ok(Some(found));
        }
        Ok(Self::all(dir)?.into_iter().find(|folder| folder.spec.id == id))
    }

    /// All containers, by name.
    pub(super) fn all(dir: &Path) -> io::Result<Vec<Self>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                // One may be removed between the two looks.
                folders.extend(Self::read(entry.path())?);
            }
        }
        folders.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(folders)
    }

    fn read(path: PathBuf) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path.join(SPEC)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let started = fs::metadata(path.join(STARTED)).and_then(|meta| meta.modified());
        Ok(Some(Self {
            spec: serde_json::from_slice(&bytes)?,
            started_at: started.ok().map(|at| humantime::format_rfc3339(at).to_string()),
            path,
        }))
    }

    /// Writes down that it was started.
    pub(super) fn mark_started(&self) -> io::Result<()> {
        let file = File::create(self.path.join(STARTED))?;
        file.set_modified(SystemTime::now())?;
        file.sync_all()?;
        sync(&self.path)
    }

    /// The writable layer.
    pub(super) fn upper(&self) -> PathBuf {
        self.path.join(UPPER)
    }

    /// Removes the container; it does not run.
    pub(super) fn remove(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let aside = aside(dir, &self.spec.name);
        remove_if_there(&aside)?;
        match fs::rename(&self.path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        remove_if_there(&aside)
    }
}

/// Where a folder is made and removed: what has the right name is whole.
fn aside(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Bytes of all files below a directory, as long as they are.
pub(super) fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    // Not by recursion: how deep it goes is the service's choice.
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // The service may remove it meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            } else {
                bytes += meta.len();
            }
        }
    }
    Ok(bytes)
}
