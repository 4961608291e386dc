//! What an engine holds, at a glance: for finding what nothing needs any more.

use std::collections::BTreeSet;

use bollard::query_parameters::{ListContainersOptions, ListImagesOptions};

use super::error::call;
use super::{Docker, EngineError};

/// An image that has names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// This engine's id of it.
    pub id: String,
    /// `NAME:TAG`, at least one.
    pub names: Vec<String>,
    /// When it was made, in seconds since the epoch: not when it came to this engine.
    pub created_unix_s: u64,
}

impl Docker {
    /// All images that have a name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn named_images(&self) -> Result<Vec<NamedImage>, EngineError> {
        let images = self
            .client()
            .list_images(None::<ListImagesOptions>)
            .await
            .map_err(call("images"))?;
        let named = images.into_iter().filter_map(|image| {
            let mut names = image.repo_tags;
            // How engines write that an image has none.
            names.retain(|name| !name.starts_with("<none>"));
            (!names.is_empty()).then_some(NamedImage {
                id: image.id,
                names,
                created_unix_s: u64::try_from(image.created).unwrap_or(0),
            })
        });
        Ok(named.collect())
    }

    /// Engine ids of the images that containers stand on, running or not, whoever made them.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn images_in_use(&self) -> Result<BTreeSet<String>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            ..Default::default()
        };
        let containers = self
            .client()
            .list_containers(Some(options))
            .await
            .map_err(call("list"))?;
        Ok(containers
            .into_iter()
            .filter_map(|found| found.image_id)
            .collect())
    }

    /// Bytes of each layer of an image as its files take them on the disk, lowest first; `None` when the engine's
    /// history of the image does not tell them apart.
    ///
    /// # Errors
    /// No such image, or the engine does not answer.
    pub async fn layer_sizes(&self, image: &str, layers: usize) -> Result<Option<Vec<u64>>, EngineError> {
        let history = self
            .client()
            .image_history(image)
            .await
            .map_err(call("history"))?;
        let sizes = history.iter().rev().map(|step| step.size);
        Ok(sizes_of(sizes, layers))
    }
}

/// Steps that made no layer have no size; an empty layer looks the same, and then nothing is certain.
fn sizes_of(steps: impl Iterator<Item = i64>, layers: usize) -> Option<Vec<u64>> {
    let sizes: Vec<u64> = steps
        .filter_map(|size| u64::try_from(size).ok())
        .filter(|size| *size > 0)
        .collect();
    (sizes.len() == layers).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_believed_only_if_it_tells_the_layers_apart() {
        assert_eq!(sizes_of([100, 0, 7, 0].into_iter(), 2), Some(vec![100, 7]));
        assert_eq!(sizes_of([100, 0, 7].into_iter(), 3), None, "one layer is empty");
        assert_eq!(sizes_of([].into_iter(), 0), Some(vec![]));
    }
}
