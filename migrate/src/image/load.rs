//! Giving an image to an engine, and believing only what the engine shows afterwards.
//!
//! A load is answered with status 200 whatever happens; failures come as lines of the answer, and on
//! containerd's store some of them come *after* a line that says "Loaded image".

use bollard::errors::Error;
use bollard::models::BuildInfo;
use bollard::query_parameters::ImportImageOptions;
use futures::StreamExt;

use super::identity::Identity;
use super::tarball::SparseImage;
use crate::docker::{Docker, EngineError, Image};

/// Most bytes of an engine's message that are kept.
const MAX_MESSAGE: usize = 500;

/// Why an image is not there after a load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine said so in a line of its answer.
    #[error("the engine refused the image: {0}")]
    Refused(String),
    /// It loaded something and could not unpack it.
    #[error("the engine could not unpack the image: {0}")]
    NotUnpacked(String),
    /// It ended without saying that it loaded anything.
    #[error("the engine loaded nothing")]
    Nothing,
    /// What is there now is another image.
    #[error("the engine shows another image than was loaded")]
    OtherIdentity {
        /// What was loaded.
        expected: Box<Identity>,
        /// What the engine shows.
        found: Box<Identity>,
    },
    /// The engine does not answer, or not with an image.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Loads an image and checks that the engine now holds exactly that one under its name. After a
/// failure the name is removed again.
///
/// # Errors
/// What the engine said, or how the result differs.
pub async fn load(docker: &Docker, image: SparseImage) -> Result<Image, LoadError> {
    let (reference, expected) = (image.reference.clone(), image.identity());
    docker.learn(&image.manifest_digest().to_string(), &expected);
    let loaded = match feed(docker, image).await {
        Ok(()) => verify(docker, &reference, expected).await,
        Err(error) => Err(error),
    };
    if loaded.is_err()
        && let Err(error) = docker.remove_image(&reference, false).await
    {
        tracing::debug!(%reference, %error, "a refused image could not be removed");
    }
    loaded
}

async fn feed(docker: &Docker, image: SparseImage) -> Result<(), LoadError> {
    // No platform: with one, a containerd store refuses a sparse tar and a classic one loads nothing.
    let options = ImportImageOptions {
        quiet: false,
        platform: None,
    };
    let mut lines = std::pin::pin!(docker.bulk().import_image_stream(options, image.stream(), None));
    let mut heard = Heard::default();
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => heard.line(&line),
            Err(Error::DockerStreamError { error }) => heard.refused(&error),
            Err(Error::DockerResponseServerError { message, .. }) => heard.refused(&message),
            // A JSON error is a line that this version does not know; what is there decides.
            Err(Error::JsonDataError { .. }) => {}
            Err(source) => {
                return Err(EngineError::Call {
                    action: "load",
                    source,
                }
                .into());
            }
        }
    }
    heard.end()
}

async fn verify(docker: &Docker, reference: &str, expected: Identity) -> Result<Image, LoadError> {
    let image = docker.image(reference).await?.ok_or(LoadError::Nothing)?;
    if image.identity == expected {
        Ok(image)
    } else {
        Err(LoadError::OtherIdentity {
            expected: Box::new(expected),
            found: Box::new(image.identity),
        })
    }
}

/// What the lines of a load said.
#[derive(Debug, Default)]
struct Heard {
    loaded: bool,
    refused: Option<String>,
    not_unpacked: Option<String>,
}

impl Heard {
    fn line(&mut self, line: &BuildInfo) {
        if let Some(detail) = &line.error_detail {
            self.refused(detail.message.as_deref().unwrap_or("no reason given"));
        }
        for text in line.stream.iter().chain(&line.status) {
            if text.contains("Error unpacking image")
                || text.contains("doesn't provide the requested platform")
            {
                self.not_unpacked.get_or_insert_with(|| short(text));
            } else if text.contains("Loaded image") {
                self.loaded = true;
            }
        }
    }

    fn refused(&mut self, message: &str) {
        self.refused.get_or_insert_with(|| short(message));
    }

    fn end(self) -> Result<(), LoadError> {
        match self {
            Self {
                refused: Some(message),
                ..
            } => Err(LoadError::Refused(message)),
            Self {
                not_unpacked: Some(message),
                ..
            } => Err(LoadError::NotUnpacked(message)),
            Self { loaded: false, .. } => Err(LoadError::Nothing),
            Self { loaded: true, .. } => Ok(()),
        }
    }
}

fn short(message: &str) -> String {
    message.trim().chars().take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::ErrorDetail;

    use super::*;

    fn said(text: &str) -> BuildInfo {
        BuildInfo {
            stream: Some(text.to_owned()),
            ..Default::default()
        }
    }

    fn outcome(lines: &[BuildInfo]) -> Result<(), LoadError> {
        let mut heard = Heard::default();
        lines.iter().for_each(|line| heard.line(line));
        heard.end()
    }

    #[test]
    fn a_load_is_judged_by_all_of_its_lines() {
        assert!(outcome(&[said("Loaded image: x:1\n")]).is_ok());
        assert!(matches!(outcome(&[]), Err(LoadError::Nothing)));
        assert!(matches!(
            outcome(&[said("Loading layer")]),
            Err(LoadError::Nothing)
        ));
        let late = [
            said("Loaded image: x:1\n"),
            said("Error unpacking image x:1: not found\n"),
        ];
        assert!(matches!(outcome(&late), Err(LoadError::NotUnpacked(_))));
        let refused = BuildInfo {
            error_detail: Some(ErrorDetail {
                code: None,
                message: Some("invalid diffID".into()),
            }),
            ..Default::default()
        };
        let Err(LoadError::Refused(message)) = outcome(&[said("Loaded image: x:1\n"), refused]) else {
            panic!("must be refused")
        };
        assert_eq!(message, "invalid diffID");
    }
}
