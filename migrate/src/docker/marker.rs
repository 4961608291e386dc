//! An empty file, put into a container by its engine: what appears of it elsewhere tells where the engine writes.

use bollard::query_parameters::UploadToContainerOptions;

use super::error::call;
use super::{Docker, EngineError};

impl Docker {
    /// Puts an empty file of that name into the container's root directory.
    ///
    /// # Errors
    /// The engine refuses, or does not answer.
    pub async fn put_marker(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..Default::default()
        };
        let body = bollard::body_full(archive(name).into());
        self.client()
            .upload_to_container(id, Some(options), body)
            .await
            .map_err(call("put a marker"))
    }
}

/// A tar with that one empty file.
fn archive(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o600);
    header.set_size(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(&mut header, name, std::io::empty())
        .and_then(|()| builder.into_inner())
        .expect("memory takes all that is written, and the name is a plain one")
}
