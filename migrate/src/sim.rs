//! The simulated runtime: no container engine, no root; for large testnets and for tests of the sessions' rules.
//!
//! A container is a folder and, while it runs, a task of this process that serves a built-in counter (`counter`) on a
//! port of its own on loopback. Its writable layer is a directory of real files, which moves as a real container's does:
//! in rounds, by [`crate::layer`], through a gate. Its image is a name and a digest, without bytes.
//!
//! ```text
//! DIR/<container name>/spec.json    what it was created as
//!                      started      once it has been started
//!                      upper/       its writable layer: data/{log,count,fill-N}
//! ```
//! Unlike a real container it ends with its node, however that ends: the node's next start finds it stopped, with its
//! layer as it was. What it measures is what it was declared to need.

mod counter;
mod layer;
mod oracle;
mod run;
mod spec;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::docker::{
    Container, EngineError, ExitWatch, Image, ImageError, Opened, Sizes, Started, Stopped, Usage,
};
use crate::gate::GateFolder;
use crate::helper::{HelperError, Refusal};
use crate::image::{Digest, Identity};
use crate::recreate::{ContainerSpec, ImageConfig};
use crate::service::{Pinned, StopSignal};
pub use layer::{DirRoot, DirSource};
use run::Run;
use spec::{Folder, Spec};

/// What simulated images and nodes are for: no real node takes a simulated container, and none is taken from one.
pub const ARCHITECTURE: &str = "sim";
/// How long a simulated container may outlive SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// The simulated containers of one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    images: Vec<Pinned>,
    /// The last run of each container that was started by this process, by name.
    runs: Mutex<HashMap<String, Run>>,
    /// Runs so far: the number of a run stands where a real container has its process.
    count: AtomicU32,
}

impl Sim {
    /// The containers in `dir`, none of which runs. `images` are there, and no others ever will be.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(dir: &Path, images: Vec<Pinned>) -> Result<Self, EngineError> {
        spec::prepare(dir).map_err(failed("open"))?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            images,
            runs: Mutex::default(),
            count: AtomicU32::new(0),
        })))
    }

    /// Where the containers lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Run>> {
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a container by its name or full id.
    async fn find(&self, id: &str, action: &'static str) -> Result<Option<Folder>, EngineError> {
        let (dir, id) = (self.0.dir.clone(), id.to_owned());
        blocking(action, move || Folder::find(&dir, &id)).await
    }

    async fn expect(&self, id: &str, action: &'static str) -> Result<Folder, EngineError> {
        let found = self.find(id, action).await?;
        found.ok_or_else(|| EngineError::NotFound {
            action,
            what: id.to_owned(),
        })
    }
}

/// Containers: as the methods of [`Docker`](crate::docker::Docker) of the same names.
impl Sim {
    pub(crate) async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let (dir, spec) = (self.0.dir.clone(), Spec::of(spec).map_err(failed("create"))?);
        blocking("create", move || Folder::create(&dir, &spec).map(|()| spec.id)).await
    }

    pub(crate) async fn start(&self, id: &str) -> Result<Started, EngineError> {
        let folder = self.expect(id, "start").await?;
        let marked = folder.clone();
        blocking("start", move || marked.mark_started()).await?;
        let mut runs = self.runs();
        let run = match runs.get(&folder.spec.name).filter(|run| !run.has_ended()) {
            Some(running) => running,
            None => {
                let number = self.0.count.fetch_add(1, Ordering::Relaxed) + 1;
                let run = Run::start(number, &folder).map_err(failed("start"))?;
                runs.insert(folder.spec.name.clone(), run);
                &runs[&folder.spec.name]
            }
        };
        Ok(Started {
            pid: run.number(),
            address: Some(run.address().ip()),
            port: Some(run.address().port()),
        })
    }

    pub(crate) async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        Ok(self.find(id, "inspect").await?.map(|folder| self.shown(folder)))
    }

    pub(crate) async fn list(&self, labels: &[(&str, Option<&str>)]) -> Result<Vec<Container>, EngineError> {
        let dir = self.0.dir.clone();
        let mut folders = blocking("list", move || Folder::all(&dir)).await?;
        folders.retain(|folder| {
            labels.iter().all(|(key, wanted)| {
                let value = folder.spec.labels.get(*key);
                value.is_some_and(|value| wanted.is_none_or(|wanted| wanted == value))
            })
        });
        Ok(folders.into_iter().map(|folder| self.shown(folder)).collect())
    }

    fn shown(&self, folder: Folder) -> Container {
        let runs = self.runs();
        let run = runs.get(&folder.spec.name).filter(|run| !run.has_ended());
        Container {
            running: run.is_some(),
            paused: false,
            pid: run.map(Run::number),
            address: run.map(|run| run.address().ip()),
            port: run.map(|run| run.address().port()),
            exit_code: None,
            started_at: folder.started_at,
            id: folder.spec.id,
            name: folder.spec.name,
            image: folder.spec.image,
            labels: folder.spec.labels,
            declared_volumes: BTreeSet::new(),
            volumes: Vec::new(),
        }
    }

    pub(crate) async fn stop(
        &self,
        id: &str,
        signal: StopSignal,
        grace: Duration,
    ) -> Result<Stopped, EngineError> {
        let began = Instant::now();
        let done = |killed| Stopped {
            ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            killed,
        };
        let name = self.expect(id, "stop").await?.spec.name;
        let Some(run) = self.runs().get(&name).map(Run::handle) else {
            return Ok(done(false));
        };
        run.signal(signal);
        if tokio::time::timeout(grace, run.ended()).await.is_ok() {
            return Ok(done(false));
        }
        run.signal(StopSignal::SigKill);
        match tokio::time::timeout(KILL_WAIT, run.ended()).await {
            Ok(()) => Ok(done(true)),
            Err(_) => Err(EngineError::StillRunning {
                container: name,
                after: KILL_WAIT,
            }),
        }
    }

    pub(crate) async fn remove(&self, id: &str, force: bool) -> Result<(), EngineError> {
        let Some(folder) = self.find(id, "remove").await? else {
            return Ok(());
        };
        let name = &folder.spec.name;
        let runs = self.runs().get(name).is_some_and(|run| !run.has_ended());
        if runs && !force {
            let running = io::Error::other("the container runs");
            return Err(failed("remove")(running));
        }
        self.stop(name, StopSignal::SigKill, KILL_WAIT).await?;
        self.runs().remove(name);
        blocking("remove", move || folder.remove()).await
    }

    pub(crate) fn watch(&self, number: u32, id: &str) -> Opened {
        let runs = self.runs();
        let run = runs.values().find(|run| run.number() == number && run.id() == id);
        match run {
            Some(run) => Opened::Watching(ExitWatch::told(number, run.handle().told())),
            None => Opened::NotThere,
        }
    }

    pub(crate) async fn usage(&self, id: &str) -> Result<Usage, EngineError> {
        let spec = self.expect(id, "usage").await?.spec;
        let runs = self.runs().get(&spec.name).is_some_and(|run| !run.has_ended());
        if !runs {
            return Ok(Usage::default());
        }
        Ok(Usage {
            memory: spec.memory,
            cpu_milli: spec.cpu_milli,
        })
    }

    pub(crate) async fn sizes(&self, id: &str) -> Result<Sizes, EngineError> {
        let folder = self.expect(id, "sizes").await?;
        let writable = blocking("sizes", move || spec::bytes_below(&folder.upper())).await?;
        Ok(Sizes {
            writable,
            total: writable,
        })
    }
}

/// Layers of running containers.
impl Sim {
    pub(crate) async fn source(&self, id: &str) -> Result<DirSource, HelperError> {
        let folder = self.held(id).await?;
        let run = self.runs().get(&folder.spec.name).map(Run::handle);
        match run.filter(|run| !run.has_ended()) {
            Some(run) => layer::source(run, folder.upper(), self.0.dir.clone()).await,
            None => Err(Refusal::NotRunning.into()),
        }
    }

    pub(crate) async fn gated(&self, id: &str) -> Result<DirRoot, HelperError> {
        let folder = self.held(id).await?;
        let run = self.runs().get(&folder.spec.name).map(Run::handle);
        let gate = folder.spec.gate.clone().map(GateFolder::at);
        match (run.filter(|run| !run.has_ended()), gate) {
            (Some(run), Some(gate)) => layer::root(run, gate, folder.upper()).await,
            _ => Err(Refusal::NotGated.into()),
        }
    }

    async fn held(&self, id: &str) -> Result<Folder, HelperError> {
        match self.find(id, "hold").await {
            Ok(Some(folder)) => Ok(folder),
            Ok(None) => Err(Refusal::NoContainer.into()),
            Err(error) => Err(HelperError::Directory(error.to_string())),
        }
    }

    pub(crate) async fn put_marker(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let marker = self.expect(id, "put a marker").await?.upper().join(name);
        blocking("put a marker", move || std::fs::File::create(marker).map(drop)).await
    }
}

/// Images: those that the node's services pin, each a name and a digest.
impl Sim {
    pub(crate) fn pinned(&self, pinned: &Pinned) -> Result<Image, ImageError> {
        match self.0.images.iter().find(|image| *image == pinned) {
            Some(image) => Ok(shape(image)),
            None => Err(ImageError::Absent {
                reference: pinned.reference.clone(),
                pinned: pinned.config_digest,
            }),
        }
    }

    pub(crate) fn image(&self, reference: &str) -> Option<Image> {
        let named =
            |image: &&Pinned| image.reference == reference || image.config_digest.to_string() == reference;
        self.0.images.iter().find(named).map(shape)
    }

    pub(crate) fn chains(&self) -> Vec<Vec<Digest>> {
        let images: BTreeSet<Digest> = self.0.images.iter().map(|image| image.config_digest).collect();
        images.into_iter().map(|digest| vec![layer_of(digest)]).collect()
    }
}

/// What is known of an image that has no bytes.
fn shape(pinned: &Pinned) -> Image {
    Image {
        id: pinned.config_digest.to_string(),
        reference: Some(pinned.reference.clone()),
        identity: Identity {
            config_digest: pinned.config_digest,
            diff_ids: vec![layer_of(pinned.config_digest)],
        },
        architecture: ARCHITECTURE.to_owned(),
        os: "linux".to_owned(),
        size: 0,
        config: ImageConfig {
            entrypoint: vec!["counter".to_owned()],
            ..ImageConfig::default()
        },
    }
}

/// The one layer of an image: there are no bytes to tell it by.
fn layer_of(image: Digest) -> Digest {
    Digest::of(&image.0)
}

/// Runs what touches the disk where it may block.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)
        .and_then(|outcome| outcome)
        .map_err(failed(action))
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |source| EngineError::Simulated { action, source }
}

#[cfg(test)]
mod tests;
