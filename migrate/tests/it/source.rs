//! A source that serves made-up layers and rounds, and what its answers are pulled into.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use blosm_migrate::image::{Exported, LayerFile};
use blosm_migrate::transfer::{AttemptStores, Chunked, LayerStore, Pack};
use blosm_migrate::{Digest, Identity};

/// An image config with these layers.
pub(crate) fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

/// Stores whose final image has these layers, all offered.
pub(crate) async fn stores(dir: &Path, layers: &[Vec<u8>]) -> (AttemptStores, Vec<Digest>) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let mut files = BTreeMap::new();
    for (diff_id, bytes) in diff_ids.iter().zip(layers) {
        let path = dir.join(diff_id.hex());
        std::fs::write(&path, bytes).unwrap();
        files.insert(
            *diff_id,
            LayerFile {
                path,
                size: bytes.len() as u64,
            },
        );
    }
    let config = config(&diff_ids);
    let identity = Identity {
        config_digest: Digest::of(&config),
        diff_ids: diff_ids.clone(),
    };
    let exported = Exported {
        identity,
        config,
        layers: files,
        descriptors: Vec::new(),
    };
    let store = LayerStore::open(&exported).await.unwrap();
    (
        AttemptStores {
            last: Some(Arc::new(store)),
            ..AttemptStores::default()
        },
        diff_ids,
    )
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A blob of these bytes.
pub(crate) fn chunked(bytes: &[u8]) -> Arc<Chunked> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    Arc::new(Chunked::read(file).unwrap())
}

/// The pack of a folder.
pub(crate) fn pack(folder: &Path) -> Arc<Pack> {
    Arc::new(Pack::open(folder, 1 << 30).unwrap())
}
