//! What runs the containers, and the whole of what a node asks of it.
//!
//! The node knows an [`Engine`] and nothing behind it. With [`Runtime::Docker`] that is a container engine over its
//! socket and, for what needs rights, the layer helper beside it; with [`Runtime::Sim`] it is [`Sim`], for large testnets
//! and for tests. Images move with the former only: [`Engine::has_images`].

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::docker::{
    Container, Docker, EngineError, Image, ImageError, NamedImage, Opened, Sizes, Started, Stopped, Usage,
    watch_exit,
};
use crate::helper::{Helper, HelperError, Refusal};
use crate::image::{
    self, Digest, ExportError, Exported, Held, Identity, LoadError, SparseImage, Wanted, export_layers,
};
use crate::recreate::ContainerSpec;
use crate::service::{Pinned, StopSignal};
use crate::sim::{self, Sim};

mod layer;

pub use layer::{GatedRoot, SourceLayer};

/// What runs this node's containers. Cheap to clone.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a node has one, and clones of it live as long as the work that they are for"
)]
pub enum Engine {
    /// A Docker engine.
    Docker {
        /// The engine.
        docker: Docker,
        /// What has the rights to read and write containers' layers. Whether it is there shows when it is asked.
        helper: Helper,
    },
    /// Simulated containers.
    Sim(Sim),
}

/// The kinds of engines. A node has the one that its configuration names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Real containers, in an engine that speaks Docker's API.
    #[default]
    Docker,
    /// Simulated ones: a built-in service whose writable layer is a directory. Never chosen unless it is asked for.
    Sim,
}

impl Runtime {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Sim => "sim",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be docker or sim")]
pub struct NotARuntime;

impl FromStr for Runtime {
    type Err = NotARuntime;

    fn from_str(text: &str) -> Result<Self, NotARuntime> {
        match text {
            "docker" => Ok(Self::Docker),
            "sim" => Ok(Self::Sim),
            _ => Err(NotARuntime),
        }
    }
}

/// What an engine says of itself, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: String,
    /// How it keeps images.
    pub store: String,
    /// How it keeps layers.
    pub storage_driver: String,
    /// As image configs name it.
    pub architecture: String,
}

impl Engine {
    /// Connects to the engine at `socket`, `unix:///path`. The helper at `helper` is not looked for.
    ///
    /// # Errors
    /// As [`Docker::connect`].
    pub async fn docker(socket: &str, helper: &Path) -> Result<Self, EngineError> {
        Ok(Self::Docker {
            docker: Docker::connect(socket).await?,
            helper: Helper::new(helper),
        })
    }

    /// Simulated containers in the folder `dir`, with `images` and no others.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn sim(dir: &Path, images: Vec<Pinned>) -> Result<Self, EngineError> {
        Sim::open(dir, images).map(Self::Sim)
    }

    /// Which kind it is.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        match self {
            Self::Docker { .. } => Runtime::Docker,
            Self::Sim(_) => Runtime::Sim,
        }
    }

    /// Whether images can be made, saved and loaded, and containers so move as images.
    #[must_use]
    pub fn has_images(&self) -> bool {
        match self {
            Self::Docker { .. } => true,
            Self::Sim(_) => false,
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn about(&self) -> About {
        match self {
            Self::Docker { docker, .. } => {
                let info = docker.info();
                About {
                    version: info.version.clone(),
                    store: format!("{:?}", info.store).to_lowercase(),
                    storage_driver: info.storage_driver.clone(),
                    architecture: info.architecture.clone(),
                }
            }
            Self::Sim(_) => About {
                version: "simulated containers".to_owned(),
                store: "none".to_owned(),
                storage_driver: "directory".to_owned(),
                architecture: sim::ARCHITECTURE.to_owned(),
            },
        }
    }

    /// `amd64`, `arm64`, ...: what its images are for.
    #[must_use]
    pub fn architecture(&self) -> &str {
        match self {
            Self::Docker { docker, .. } => &docker.info().architecture,
            Self::Sim(_) => sim::ARCHITECTURE,
        }
    }

    /// Where it keeps layers.
    #[must_use]
    pub fn root_dir(&self) -> PathBuf {
        match self {
            Self::Docker { docker, .. } => docker.info().root_dir.clone(),
            Self::Sim(sim) => sim.dir().to_owned(),
        }
    }

    /// Whether it answers now.
    pub async fn alive(&self) -> bool {
        match self {
            Self::Docker { docker, .. } => docker.alive().await,
            Self::Sim(_) => true,
        }
    }

    /// What is needed to read and write the layers of running containers, where that is another process.
    #[must_use]
    pub fn helper(&self) -> Option<&Helper> {
        match self {
            Self::Docker { helper, .. } => Some(helper),
            Self::Sim(_) => None,
        }
    }
}

/// Containers.
impl Engine {
    /// See [`Docker::create`].
    ///
    /// # Errors
    /// The engine refuses: the name is taken, the image is absent, a limit is not supported.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.create(spec).await,
            Self::Sim(sim) => sim.create(spec).await,
        }
    }

    /// See [`Docker::start`].
    ///
    /// # Errors
    /// The engine refuses, or the container ended at once.
    pub async fn start(&self, id: &str) -> Result<Started, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.start(id).await,
            Self::Sim(sim) => sim.start(id).await,
        }
    }

    /// Looks at a container by id or name; `None` when there is none.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn inspect(&self, id_or_name: &str) -> Result<Option<Container>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.inspect(id_or_name).await,
            Self::Sim(sim) => sim.inspect(id_or_name).await,
        }
    }

    /// See [`Docker::list`].
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list(&self, labels: &[(&str, Option<&str>)]) -> Result<Vec<Container>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.list(labels).await,
            Self::Sim(sim) => sim.list(labels).await,
        }
    }

    /// Stops a container, and succeeds only when its exit was seen. See [`Docker::stop`].
    ///
    /// # Errors
    /// Any error means that the exit was *not* seen, and that nothing may be built on it.
    pub async fn stop(&self, id: &str, signal: StopSignal, grace: Duration) -> Result<Stopped, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.stop(id, signal, grace).await,
            Self::Sim(sim) => sim.stop(id, signal, grace).await,
        }
    }

    /// Waits until the engine has noticed that a container stopped.
    ///
    /// # Errors
    /// The engine does not answer, or says for five seconds that it runs.
    pub async fn settled(&self, id: &str) -> Result<(), EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.settled(id).await,
            // What ends here has ended for everybody.
            Self::Sim(_) => Ok(()),
        }
    }

    /// Removes a container. One that is gone already is fine.
    ///
    /// # Errors
    /// The engine refuses (it runs and `force` is false) or does not answer.
    pub async fn remove(&self, id: &str, force: bool) -> Result<(), EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.remove(id, force).await,
            Self::Sim(sim) => sim.remove(id, force).await,
        }
    }

    /// Watches the first process of a container: `pid` as [`start`](Self::start) has given it, and the full id.
    ///
    /// # Errors
    /// Nothing can be known of it.
    pub fn watch(&self, pid: u32, id: &str) -> io::Result<Opened> {
        match self {
            Self::Docker { .. } => watch_exit(pid, id),
            Self::Sim(sim) => Ok(sim.watch(pid, id)),
        }
    }

    /// What a running container uses.
    ///
    /// # Errors
    /// No such container, or the engine does not answer.
    pub async fn usage(&self, id: &str) -> Result<Usage, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.usage(id).await,
            Self::Sim(sim) => sim.usage(id).await,
        }
    }

    /// What a container takes on disk.
    ///
    /// # Errors
    /// No such container, or the engine does not answer.
    pub async fn sizes(&self, id: &str) -> Result<Sizes, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.sizes(id).await,
            Self::Sim(sim) => sim.sizes(id).await,
        }
    }
}

/// Layers of containers while they run.
impl Engine {
    /// Takes hold of the writable layer of a running container, by its full id, to read it round by round.
    ///
    /// # Errors
    /// It cannot be read in this way.
    pub async fn source(&self, id: &str) -> Result<SourceLayer, HelperError> {
        match self {
            Self::Docker { helper, .. } => helper.source(id).await.map(SourceLayer::Helper),
            Self::Sim(sim) => sim.source(id).await.map(SourceLayer::Directory),
        }
    }

    /// Takes hold of the root of a container that waits at its gate, by its full id, to write to it.
    ///
    /// # Errors
    /// It does not wait, or cannot be written in this way.
    pub async fn gated(&self, id: &str) -> Result<GatedRoot, HelperError> {
        match self {
            Self::Docker { helper, .. } => helper.gated(id).await.map(GatedRoot::Helper),
            Self::Sim(sim) => sim.gated(id).await.map(GatedRoot::Directory),
        }
    }

    /// Puts an empty file of that name into the container's root directory, in the engine's own way.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn put_marker(&self, id: &str, name: &str) -> Result<(), EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.put_marker(id, name).await,
            Self::Sim(sim) => sim.put_marker(id, name).await,
        }
    }
}

/// Images.
impl Engine {
    /// See [`Docker::image`].
    ///
    /// # Errors
    /// The engine does not answer, or its answer makes no sense.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.image(reference).await,
            Self::Sim(sim) => Ok(sim.image(reference)),
        }
    }

    /// The image that a service pins, if this engine has exactly that one and can run it.
    ///
    /// # Errors
    /// It is absent, another image has its name, or it is for another architecture; each says what to do.
    pub async fn pinned(&self, pinned: &Pinned) -> Result<Image, ImageError> {
        match self {
            Self::Docker { docker, .. } => docker.pinned(pinned).await,
            Self::Sim(sim) => sim.pinned(pinned),
        }
    }

    /// The layers that this engine holds, of all its images.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn held_chains(&self) -> Result<Held, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.held_chains().await,
            Self::Sim(sim) => {
                let mut held = Held::default();
                sim.chains().iter().for_each(|chain| held.add(chain));
                Ok(held)
            }
        }
    }

    /// The layers of each image that this engine holds, lowest first.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn chains(&self) -> Result<Vec<Vec<Digest>>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.chains().await,
            Self::Sim(sim) => Ok(sim.chains()),
        }
    }

    /// See [`Docker::layer_sizes`].
    ///
    /// # Errors
    /// No such image, or the engine does not answer.
    pub async fn layer_sizes(&self, image: &str, layers: usize) -> Result<Option<Vec<u64>>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.layer_sizes(image, layers).await,
            Self::Sim(_) => Ok(Some(vec![0; layers])),
        }
    }

    /// All images that have a name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn named_images(&self) -> Result<Vec<NamedImage>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.named_images().await,
            // None that could be removed.
            Self::Sim(_) => Ok(Vec::new()),
        }
    }

    /// Engine ids of the images that containers stand on.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn images_in_use(&self) -> Result<BTreeSet<String>, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.images_in_use().await,
            Self::Sim(_) => Ok(BTreeSet::new()),
        }
    }

    /// See [`Docker::remove_image`].
    ///
    /// # Errors
    /// The engine refuses (a container uses it) or does not answer.
    pub async fn remove_image(&self, reference: &str, force: bool) -> Result<(), EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.remove_image(reference, force).await,
            // None that could be removed.
            Self::Sim(_) => Ok(()),
        }
    }

    /// Makes an image `repo:tag` of a stopped container. See [`Docker::commit`].
    ///
    /// # Errors
    /// The engine refuses, or cannot show the image it made.
    pub async fn commit(
        &self,
        id: &str,
        repo: &str,
        tag: &str,
        entrypoint: &[String],
        cmd: &[String],
    ) -> Result<Image, EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.commit(id, repo, tag, entrypoint, cmd).await,
            Self::Sim(_) => Err(EngineError::NoImages { action: "commit" }),
        }
    }

    /// Exports the wanted layers of an image into `spool`: from the engine's store where the helper can read it, else
    /// by a save.
    ///
    /// # Errors
    /// The save fails or is not what it must be.
    pub async fn export(
        &self,
        reference: &str,
        identity: &Identity,
        wanted: &Wanted,
        spool: &Path,
    ) -> Result<Exported, ExportError> {
        match self {
            Self::Docker { docker, helper } => {
                export_layers(docker, reference, identity, wanted, spool, Some(helper)).await
            }
            Self::Sim(_) => Err(ExportError::NoImages),
        }
    }

    /// Loads an image and checks that exactly that one is there now. See [`image::load()`].
    ///
    /// # Errors
    /// What the engine said, or how the result differs.
    pub async fn load(&self, image: SparseImage) -> Result<Image, LoadError> {
        match self {
            Self::Docker { docker, .. } => image::load(docker, image).await,
            Self::Sim(_) => Err(EngineError::NoImages { action: "load" }.into()),
        }
    }

    /// Makes durable what the engine has written so far: it syncs neither the images that it loads nor the containers
    /// that it creates. See [`Docker::sync`]. What is simulated syncs its own files as it goes.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn sync(&self) -> Result<(), EngineError> {
        match self {
            Self::Docker { docker, .. } => docker.sync().await,
            Self::Sim(_) => Ok(()),
        }
    }

    /// The uncompressed tar of layer `which` of an image with these layers, where the store can be read. Only its
    /// digest tells whether it is whole.
    ///
    /// # Errors
    /// It cannot be read in this way.
    pub async fn layer(&self, chain: &[Digest], which: u16) -> Result<File, HelperError> {
        match self {
            Self::Docker { helper, .. } => helper.layer(chain, which).await,
            Self::Sim(_) => Err(Refusal::Store("simulated images have no bytes".to_owned()).into()),
        }
    }
}
