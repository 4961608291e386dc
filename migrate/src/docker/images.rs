//! Images: what is there, whether it is what was pinned, and which layers are held.

use std::collections::BTreeMap;

use bollard::models::{ImageConfig as EngineConfig, ImageInspect};
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions, TagImageOptions};

use super::error::{call, found, status};
use super::{Docker, EngineError, ImageError, Store};
use crate::image::export::{self, Wanted};
use crate::image::{Digest, Held, Identity};
use crate::recreate::{Base, ImageConfig};
use crate::service::Pinned;

/// An image as this engine holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// This engine's id of it: what to run; means nothing elsewhere.
    pub id: String,
    /// One of its names, if it has any.
    pub reference: Option<String>,
    /// What it is, on every engine.
    pub identity: Identity,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Bytes of all layers.
    pub size: u64,
    /// How containers of it run.
    pub config: ImageConfig,
}

impl Image {
    /// The part of it that containers are built from.
    #[must_use]
    pub fn base(&self) -> Base {
        Base {
            identity: self.identity.clone(),
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            config: self.config.clone(),
        }
    }
}

impl Docker {
    /// Looks at an image by name, id or digest; `None` when the engine answers that there is none.
    ///
    /// On containerd's store the first look at an image reads all of it: that store names no config
    /// digest. The answer is kept.
    ///
    /// # Errors
    /// The engine does not answer, or its answer makes no sense.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        let Some(inspect) = found("image", self.client().inspect_image(reference).await)? else {
            return Ok(None);
        };
        let diff_ids = diff_ids(&inspect)?;
        let id = inspect.id.clone().ok_or(EngineError::Answer {
            action: "image",
            what: "an id",
        })?;
        let identity = match self.info().store {
            Store::Classic => {
                let config_digest = id.parse().map_err(|_| EngineError::Answer {
                    action: "image",
                    what: "a digest for an id",
                })?;
                Identity {
                    config_digest,
                    diff_ids,
                }
            }
            Store::Containerd => self.identify(&id).await?,
        };
        Ok(Some(Image {
            id,
            reference: inspect.repo_tags.and_then(|tags| tags.into_iter().next()),
            identity,
            architecture: inspect.architecture.unwrap_or_default(),
            os: inspect.os.unwrap_or_default(),
            size: inspect
                .size
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(0),
            config: inspect.config.map(ImageConfig::from).unwrap_or_default(),
        }))
    }

    /// Keeps the identity of an image whose id is known before the engine holds it: a loaded image's
    /// id on containerd's store is the digest of the manifest that was loaded.
    pub(crate) fn learn(&self, id: &str, identity: &Identity) {
        if self.info().store == Store::Containerd
            && let Ok(mut known) = self.identities.lock()
        {
            known.insert(id.to_owned(), identity.clone());
        }
    }

    async fn identify(&self, id: &str) -> Result<Identity, EngineError> {
        let known = self
            .identities
            .lock()
            .ok()
            .and_then(|known| known.get(id).cloned());
        if let Some(identity) = known {
            return Ok(identity);
        }
        let nowhere = std::env::temp_dir();
        let exported = export::export(self, id, &Wanted::Nothing, &nowhere)
            .await
            .map_err(|source| EngineError::Identify {
                image: id.to_owned(),
                source: Box::new(source),
            })?;
        if let Ok(mut known) = self.identities.lock() {
            known.insert(id.to_owned(), exported.identity.clone());
        }
        Ok(exported.identity)
    }

    /// The image that a service pins, if this engine has exactly that one and can run it.
    ///
    /// # Errors
    /// It is absent, another image has its name, or it is for another architecture; each says what
    /// to do.
    pub async fn pinned(&self, pinned: &Pinned) -> Result<Image, ImageError> {
        let by_digest = match self.info().store {
            Store::Classic => self.image(&pinned.config_digest.to_string()).await?,
            Store::Containerd => None,
        };
        let image = match by_digest {
            Some(image) => image,
            None => self
                .image(&pinned.reference)
                .await?
                .ok_or_else(|| ImageError::Absent {
                    reference: pinned.reference.clone(),
                    pinned: pinned.config_digest,
                })?,
        };
        let found = image.identity.config_digest;
        if found != pinned.config_digest {
            let (reference, pinned) = (pinned.reference.clone(), pinned.config_digest);
            return Err(ImageError::OtherDigest {
                reference,
                pinned,
                found,
            });
        }
        let engine = &self.info().architecture;
        if image.architecture != *engine {
            return Err(ImageError::WrongArchitecture {
                reference: pinned.reference.clone(),
                image: image.architecture,
                engine: engine.clone(),
            });
        }
        Ok(image)
    }

    /// The layers that this engine holds, of all its images.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn held_chains(&self) -> Result<Held, EngineError> {
        let mut held = Held::default();
        for chain in self.chains().await? {
            held.add(&chain);
        }
        Ok(held)
    }

    /// The layers of each image that this engine holds, lowest first.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn chains(&self) -> Result<Vec<Vec<Digest>>, EngineError> {
        let options = ListImagesOptions {
            all: true,
            ..Default::default()
        };
        let images = self
            .client()
            .list_images(Some(options))
            .await
            .map_err(call("images"))?;
        let mut chains = Vec::with_capacity(images.len());
        for image in images {
            // One may be removed between the two questions.
            if let Some(inspect) = found("image", self.client().inspect_image(&image.id).await)? {
                chains.push(diff_ids(&inspect)?);
            }
        }
        Ok(chains)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// No such image, or the engine does not answer.
    pub async fn tag(&self, image: &str, repo: &str, tag: &str) -> Result<(), EngineError> {
        let options = TagImageOptions {
            repo: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
        };
        self.client()
            .tag_image(image, Some(options))
            .await
            .map_err(call("tag"))
    }

    /// Removes a name, and the image with it if that was its last and no container uses it. One that
    /// is gone already is fine.
    ///
    /// # Errors
    /// The engine refuses (a container uses it) or does not answer.
    pub async fn remove_image(&self, reference: &str, force: bool) -> Result<(), EngineError> {
        let options = RemoveImageOptions {
            force,
            noprune: false,
            platforms: None,
        };
        match self.client().remove_image(reference, Some(options), None).await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(call("remove image")(error)),
        }
    }
}

fn diff_ids(inspect: &ImageInspect) -> Result<Vec<Digest>, EngineError> {
    let layers = inspect
        .root_fs
        .as_ref()
        .and_then(|root| root.layers.as_deref())
        .unwrap_or_default();
    layers
        .iter()
        .map(|layer| layer.parse())
        .collect::<Result<_, _>>()
        .map_err(|_| EngineError::Answer {
            action: "image",
            what: "digests for layers",
        })
}

impl From<EngineConfig> for ImageConfig {
    fn from(config: EngineConfig) -> Self {
        let labels: BTreeMap<_, _> = config.labels.unwrap_or_default().into_iter().collect();
        Self {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            labels,
            volumes: config.volumes.unwrap_or_default().into_iter().collect(),
            exposed_ports: config.exposed_ports.unwrap_or_default().into_iter().collect(),
            on_build: config.on_build.unwrap_or_default(),
            shell: config.shell.unwrap_or_default(),
            healthcheck: config
                .healthcheck
                .and_then(|check| check.test)
                .unwrap_or_default(),
        }
    }
}
