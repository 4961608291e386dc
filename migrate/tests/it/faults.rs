//! What a dishonest source can answer, and what a source refuses to answer.

use std::convert::Infallible;
use std::path::Path;

use blosm_migrate::Digest;
use blosm_migrate::transfer::wire::{MAX_CHUNKS_PER_REQUEST, TransferBody, WhichImage};
use blosm_migrate::transfer::{
    AttemptStores, Batch, BlobId, Chunk, ChunkListError, MAX_CHUNK, ManifestError, Pull, PullError, Pulled,
    TransferRequest, TransferResponse, WireError,
};

use crate::source::{noise, pack, stores};

/// One that is cut into several chunks and does not compress, and one that is one chunk and does.
fn layers() -> Vec<Vec<u8>> {
    vec![noise(3 * MAX_CHUNK, 1), vec![7; MAX_CHUNK / 2]]
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
    let pull = Pull::new([1; 16], spool, pack(spool), fetch);
    let (manifest, identity, _) = pull.manifest(WhichImage::Final).await?;
    pull.layers(&manifest, &identity.diff_ids, None).await
}

fn on_chunks(edit: impl Fn(&mut Batch)) -> impl Fn(TransferResponse) -> TransferResponse {
    move |mut answer| {
        if let TransferResponse::Chunks(batch) = &mut answer {
            edit(batch);
        }
        answer
    }
}

#[tokio::test]
async fn an_honest_source_is_pulled_from() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, diff_ids) = stores(from.path(), &layers()).await;
    let pulled = pull_twisted(to.path(), &stores, |answer| answer).await.unwrap();
    let bytes = layers().iter().map(|layer| layer.len() as u64).sum::<u64>();
    let figures = pulled.figures;
    assert!(figures.chunks >= 4, "{figures:?}");
    assert_eq!((figures.bytes, figures.chunk_bytes), (bytes, bytes));
    assert_eq!((figures.reused, figures.zero), (0, 0));
    // The second layer is all one byte: it travels compressed.
    assert!(figures.wire_bytes < figures.bytes);
    for (diff_id, bytes) in diff_ids.iter().zip(layers()) {
        assert_eq!(std::fs::read(&pulled.layers[diff_id].path).unwrap(), bytes);
    }
}

type Edit = Box<dyn Fn(&mut Batch) + Sync>;

#[tokio::test]
async fn each_lie_about_chunks_is_found_out() {
    let from = tempfile::tempdir().unwrap();
    let (stores, _) = stores(from.path(), &layers()).await;
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let edits: [(&str, Edit); 6] = [
        ("a flipped bit", Box::new(|batch| batch.bytes[30] ^= 1)),
        ("turned around", Box::new(|batch| batch.bytes.reverse())),
        (
            "a byte less",
            Box::new(|batch| batch.bytes.truncate(batch.bytes.len() - 1)),
        ),
        ("nothing", Box::new(|batch| batch.bytes.clear())),
        (
            "compressed and not said so, or the other way round",
            Box::new(|batch| batch.zstd = !batch.zstd),
        ),
        (
            "a bomb",
            Box::new(move |batch| {
                *batch = Batch {
                    zstd: true,
                    bytes: bomb.clone(),
                }
            }),
        ),
    ];
    for (what, edit) in edits {
        let to = tempfile::tempdir().unwrap();
        let error = pull_twisted(to.path(), &stores, on_chunks(edit))
            .await
            .unwrap_err();
        assert!(matches!(error, PullError::WrongChunk { .. }), "{what}: {error}");
        assert!(error.peer_fault(), "{what}");
        // Nothing of it is kept, be it as a chunk or under a layer's name.
        for entry in std::fs::read_dir(to.path()).unwrap().flatten() {
            assert_eq!(entry.metadata().unwrap().len(), 0, "{what}: {:?}", entry.path());
        }
    }
    let to = tempfile::tempdir().unwrap();
    let longer = on_chunks(|batch| {
        if !batch.zstd {
            batch.bytes.push(0);
        }
    });
    let error = pull_twisted(to.path(), &stores, longer).await.unwrap_err();
    assert!(matches!(error, PullError::WrongChunk { .. }), "{error}");
}

#[tokio::test]
async fn chunks_that_fit_a_lying_manifest_are_found_out_by_the_layer_digest() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, _) = stores(from.path(), &layers()).await;
    let evil = vec![9; MAX_CHUNK / 2];
    let error = pull_twisted(to.path(), &stores, |mut answer| {
        match &mut answer {
            TransferResponse::Manifest(manifest) => {
                for layer in &mut manifest.layers {
                    if layer.size == evil.len() as u64 {
                        layer.chunks = vec![Chunk::of(&evil)];
                    }
                }
            }
            // Only the compressible layer is lied about; the other passes.
            TransferResponse::Chunks(batch) if batch.zstd => {
                *batch = Batch {
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
    let error = pull_twisted(to.path(), &stores, |_| TransferResponse::Page(vec![]))
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
async fn a_list_comes_page_by_page_when_a_manifest_cannot_hold_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (stores, _) = stores(from.path(), &layers()).await;
    let without = |answer| match answer {
        TransferResponse::Manifest(mut manifest) => {
            manifest.layers.iter_mut().for_each(|layer| layer.chunks.clear());
            TransferResponse::Manifest(manifest)
        }
        // Two at a time, to have more than one page.
        TransferResponse::Page(page) => TransferResponse::Page(page.into_iter().take(2).collect()),
        other => other,
    };
    let pulled = pull_twisted(to.path(), &stores, without).await.unwrap();
    assert!(pulled.figures.chunks >= 4);
    type Twist = fn(Vec<Chunk>) -> Vec<Chunk>;
    let rows: [(&str, Twist, ChunkListError); 3] = [
        ("an empty page", |_| vec![], ChunkListError::Cover),
        (
            "more than the layer",
            |page| page.repeat(2),
            ChunkListError::Cover,
        ),
        (
            "chunks of nothing",
            |mut page| {
                page[0].len = 0;
                page
            },
            ChunkListError::Length,
        ),
    ];
    for (what, twist, expect) in rows {
        let empty = tempfile::tempdir().unwrap();
        let twisted = |answer| match without(answer) {
            TransferResponse::Page(page) => TransferResponse::Page(twist(page)),
            other => other,
        };
        let error = pull_twisted(empty.path(), &stores, twisted).await.unwrap_err();
        assert!(
            matches!(error, PullError::Manifest(ManifestError::Chunks(found)) if found == expect || what.starts_with("more")),
            "{what}: {error}"
        );
        assert!(error.peer_fault(), "{what}");
    }
}

#[tokio::test]
async fn a_source_answers_only_what_it_offers() {
    let from = tempfile::tempdir().unwrap();
    let (stores, diff_ids) = stores(from.path(), &layers()).await;
    let layer = BlobId::Layer(diff_ids[0]);
    let other = BlobId::Layer(Digest([0; 32]));
    let TransferResponse::Page(list) = stores.answer(TransferBody::Page { blob: layer, from: 0 }).await
    else {
        panic!("it is offered")
    };
    let end = list.len() as u32;
    let page = |blob, from| TransferBody::Page { blob, from };
    let chunks = |blob, indices: Vec<u32>| TransferBody::Chunks { blob, indices };
    let rows = [
        (
            TransferBody::Manifest {
                which: WhichImage::Base,
            },
            WireError::NotReady,
        ),
        (page(other, 0), WireError::UnknownBlob),
        (page(layer, end), WireError::UnknownBlob),
        (page(layer, u32::MAX), WireError::UnknownBlob),
        (page(BlobId::Round(0), 0), WireError::UnknownBlob),
        (chunks(layer, vec![]), WireError::BadRequest),
        (
            chunks(layer, vec![0; MAX_CHUNKS_PER_REQUEST + 1]),
            WireError::BadRequest,
        ),
        (chunks(layer, vec![0, end]), WireError::UnknownBlob),
        // More bytes than fit in an answer.
        (
            chunks(layer, vec![0; MAX_CHUNKS_PER_REQUEST]),
            WireError::UnknownBlob,
        ),
        (chunks(other, vec![0]), WireError::UnknownBlob),
        (chunks(BlobId::Round(0), vec![0]), WireError::UnknownBlob),
    ];
    for (body, why) in rows {
        assert_eq!(
            stores.answer(body.clone()).await,
            TransferResponse::Refused(why),
            "{body:?}"
        );
    }
}
