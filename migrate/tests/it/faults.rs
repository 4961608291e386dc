//! What a dishonest source can answer, and what a source refuses to answer.

use std::convert::Infallible;
use std::path::Path;

use blosm_migrate::Digest;
use blosm_migrate::transfer::wire::{MAX_CHUNKS_PER_REQUEST, TransferBody, WhichImage};
use blosm_migrate::transfer::{
    AttemptStores, CHUNK_SIZE, ChunkData, ManifestError, Pull, PullError, Pulled, TransferRequest,
    TransferResponse, WireError,
};

use crate::source::stores;

fn layers() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..3 * CHUNK_SIZE as u32 + 5)
        .flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec())
        .collect();
    vec![noise, vec![7; CHUNK_SIZE]]
}

/// Pulls everything from a source whose answers pass through `twist`.
async fn pull_twisted(
    spool: &Path,
    stores: &AttemptStores,
    twist: impl Fn(TransferResponse) -> TransferResponse + Sync,
) -> Result<Pulled, PullError> {
    let fetch = |request: TransferRequest| {
        let twist = &twist;
        async move { Ok::<_, Infallible>(twist(stores.answer(request.body).await)) }
    };
    let pull = Pull::new([1; 16], spool, fetch);
    let (manifest, identity, _) = pull.manifest(WhichImage::Final).await?;
    pull.layers(&manifest, &identity.diff_ids).await
}

fn on_chunks(edit: impl Fn(&mut Vec<ChunkData>)) -> impl Fn(TransferResponse) -> TransferResponse {
    move |mut answer| {
        if let TransferResponse::Chunks(chunks) = &mut answer {
            edit(chunks);
        }
        answer
    }
}

#[tokio::test]
async fn an_honest_source_is_pulled_from() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, diff_ids) = stores(from.path(), &layers()).await;
    let pulled = pull_twisted(to.path(), &stores, |answer| answer).await.unwrap();
    assert_eq!(pulled.chunks, 5);
    assert_eq!(
        pulled.layer_bytes,
        layers().iter().map(|layer| layer.len() as u64).sum::<u64>()
    );
    // The second layer is all one byte: it travels compressed.
    assert!(pulled.wire_bytes < pulled.layer_bytes);
    for (diff_id, bytes) in diff_ids.iter().zip(layers()) {
        assert_eq!(std::fs::read(&pulled.layers[diff_id].path).unwrap(), bytes);
    }
}

type Edit = Box<dyn Fn(&mut Vec<ChunkData>) + Sync>;

#[tokio::test]
async fn each_lie_about_chunks_is_found_out() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, _) = stores(from.path(), &layers()).await;
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let edits: [(&str, Edit); 7] = [
        ("a flipped bit", Box::new(|chunks| chunks[0].bytes[0] ^= 1)),
        ("swapped chunks", Box::new(|chunks| chunks.reverse())),
        (
            "one chunk less",
            Box::new(|chunks| chunks.truncate(chunks.len() - 1)),
        ),
        (
            "one chunk more",
            Box::new(|chunks| chunks.push(chunks[0].clone())),
        ),
        ("a cut chunk", Box::new(|chunks| chunks[0].bytes.truncate(9))),
        (
            "compressed and not said so",
            Box::new(|chunks| chunks[0].zstd = !chunks[0].zstd),
        ),
        (
            "a bomb",
            Box::new(move |chunks| {
                chunks[0] = ChunkData {
                    zstd: true,
                    bytes: bomb.clone(),
                }
            }),
        ),
    ];
    for (what, edit) in edits {
        let error = pull_twisted(to.path(), &stores, on_chunks(edit))
            .await
            .unwrap_err();
        assert!(
            matches!(error, PullError::WrongChunk { .. } | PullError::OtherAnswer),
            "{what}: {error}"
        );
        assert!(error.peer_fault(), "{what}");
    }
    // Nothing of it stands in the spool under a layer's name.
    assert!(
        std::fs::read_dir(to.path())
            .unwrap()
            .flatten()
            .all(|entry| entry.path().extension().unwrap() == "part")
    );
}

#[tokio::test]
async fn chunks_that_fit_a_lying_manifest_are_found_out_by_the_layer_digest() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, _) = stores(from.path(), &layers()).await;
    let evil = vec![9; CHUNK_SIZE];
    let error = pull_twisted(to.path(), &stores, |mut answer| {
        match &mut answer {
            TransferResponse::Manifest(manifest) => {
                for layer in &mut manifest.layers {
                    layer
                        .chunks
                        .iter_mut()
                        .next()
                        .unwrap()
                        .copy_from_slice(blake3::hash(&evil).as_bytes());
                }
            }
            // Only first chunks are lied about; the others pass.
            TransferResponse::Chunks(chunks)
                if chunks[0].zstd
                    || blake3::hash(&chunks[0].bytes) == blake3::hash(&layers()[0][..CHUNK_SIZE]) =>
            {
                chunks[0] = ChunkData {
                    zstd: false,
                    bytes: evil.clone(),
                };
            }
            _ => {}
        }
        answer
    })
    .await
    .unwrap_err();
    assert!(matches!(error, PullError::WrongLayer(_)), "{error}");
    assert!(error.peer_fault());
}

#[tokio::test]
async fn impossible_manifests_and_other_answers_end_the_pull() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, diff_ids) = stores(from.path(), &layers()).await;
    let error = pull_twisted(to.path(), &stores, |answer| match answer {
        TransferResponse::Manifest(mut manifest) => {
            manifest.layers[0].size = u64::MAX;
            TransferResponse::Manifest(manifest)
        }
        other => other,
    })
    .await
    .unwrap_err();
    assert!(
        matches!(error, PullError::Manifest(ManifestError::LayerSize)),
        "{error}"
    );
    let error = pull_twisted(to.path(), &stores, |_| TransferResponse::Hashes(vec![]))
        .await
        .unwrap_err();
    assert!(matches!(error, PullError::OtherAnswer), "{error}");
    let refused = |_| TransferResponse::Refused(WireError::UnknownAttempt);
    let error = pull_twisted(to.path(), &stores, refused).await.unwrap_err();
    assert!(matches!(error, PullError::Refused(WireError::UnknownAttempt)) && !error.peer_fault());
    let error = pull_twisted(to.path(), &stores, |answer| match answer {
        TransferResponse::Manifest(mut manifest) => {
            manifest.layers.retain(|layer| layer.diff_id != diff_ids[1]);
            TransferResponse::Manifest(manifest)
        }
        other => other,
    })
    .await
    .unwrap_err();
    assert!(
        matches!(error, PullError::NotOffered(layer) if layer == diff_ids[1]),
        "{error}"
    );
}

#[tokio::test]
async fn hashes_come_page_by_page_when_a_manifest_cannot_hold_them() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, _) = stores(from.path(), &layers()).await;
    let without = |answer| match answer {
        TransferResponse::Manifest(mut manifest) => {
            manifest.layers.iter_mut().for_each(|layer| layer.chunks.clear());
            TransferResponse::Manifest(manifest)
        }
        // Two at a time, to have more than one page.
        TransferResponse::Hashes(page) => TransferResponse::Hashes(page.into_iter().take(2).collect()),
        other => other,
    };
    let pulled = pull_twisted(to.path(), &stores, without).await.unwrap();
    assert_eq!(pulled.chunks, 5);
    let empty = tempfile::tempdir().unwrap();
    let endless = |answer| match without(answer) {
        TransferResponse::Hashes(_) => TransferResponse::Hashes(vec![]),
        other => other,
    };
    let error = pull_twisted(empty.path(), &stores, endless).await.unwrap_err();
    assert!(
        matches!(error, PullError::Manifest(ManifestError::Chunks)),
        "{error}"
    );
}

#[tokio::test]
async fn a_source_answers_only_what_it_offers() {
    let from = tempfile::tempdir().unwrap();
    let (stores, diff_ids) = stores(from.path(), &layers()).await;
    let layer = diff_ids[0];
    let chunks = |layer, indices: Vec<u32>| TransferBody::Chunks { layer, indices };
    let rows = [
        (
            TransferBody::Manifest {
                which: WhichImage::Base,
            },
            WireError::NotReady,
        ),
        (
            TransferBody::Hashes {
                layer: Digest([0; 32]),
                from: 0,
            },
            WireError::UnknownLayer,
        ),
        (TransferBody::Hashes { layer, from: 4 }, WireError::UnknownLayer),
        (
            TransferBody::Hashes {
                layer,
                from: u32::MAX,
            },
            WireError::UnknownLayer,
        ),
        (chunks(layer, vec![]), WireError::BadRequest),
        (
            chunks(layer, vec![0; MAX_CHUNKS_PER_REQUEST + 1]),
            WireError::BadRequest,
        ),
        (chunks(layer, vec![0, 4]), WireError::UnknownLayer),
        (chunks(Digest([0; 32]), vec![0]), WireError::UnknownLayer),
    ];
    for (body, why) in rows {
        assert_eq!(
            stores.answer(body.clone()).await,
            TransferResponse::Refused(why),
            "{body:?}"
        );
    }
}
