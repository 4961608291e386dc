//! What is pulled is what was offered, whatever its sizes and however often the link fails.

use std::sync::atomic::{AtomicU64, Ordering};

use blosm_migrate::Digest;
use blosm_migrate::transfer::wire::{MAX_RESPONSE, WhichImage};
use blosm_migrate::transfer::{
    BlobId, MIN_CHUNK, Pull, PullError, TransferBody, TransferRequest, TransferResponse,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::source::{pack, stores};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Layers about as long as some number of the shortest chunks, compressible or not, or nothing but zeros.
fn layer() -> impl Strategy<Value = Vec<u8>> {
    (0..40usize, 1..200usize, any::<u64>(), 0..3u8).prop_map(|(chunks, rest, seed, kind)| {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match kind {
                0 => state as u8,
                1 => (state % 3) as u8,
                _ => 0,
            }
        };
        (0..chunks * MIN_CHUNK + rest - 1 + usize::from(chunks == 0))
            .map(|_| next())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_pull_comes_through_whichever_answers_are_lost(
        layers in vec(layer(), 1..4),
        losses in btree_set(0..30u64, 0..12),
    ) {
        block_on(async {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (stores, diff_ids) = stores(from.path(), &layers).await;
            let asked = AtomicU64::new(0);
            let fetch = |request: TransferRequest| {
                let lost = losses.contains(&asked.fetch_add(1, Ordering::Relaxed));
                let stores = &stores;
                async move { if lost { Err("lost") } else { Ok(stores.answer(request.body).await) } }
            };
            // Each loss ends one try, so one more try than losses is enough.
            let mut pulled = None;
            for _ in 0..=losses.len() {
                let pull = Pull::new([1; 16], to.path(), pack(to.path()), &fetch);
                let (manifest, identity, _) = match pull.manifest(WhichImage::Final).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        assert!(matches!(error, PullError::Fetch(_)) && !error.peer_fault());
                        continue;
                    }
                };
                assert_eq!(identity.diff_ids, diff_ids);
                match pull.layers(&manifest, &diff_ids, None).await {
                    Ok(done) => {
                        let again = pull.layers(&manifest, &diff_ids, None).await.unwrap();
                        assert_eq!(again.figures.chunks, 0, "whole layers are not asked for again");
                        pulled = Some(done);
                        break;
                    }
                    Err(error) => assert!(matches!(error, PullError::Fetch(_)) && !error.peer_fault()),
                }
            }
            let pulled = pulled.expect("a try without a loss");
            for (diff_id, bytes) in diff_ids.iter().zip(&layers) {
                assert_eq!(&std::fs::read(&pulled.layers[diff_id].path).unwrap(), bytes);
            }
        });
    }

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..4096)) {
        let _ = borsh::from_slice::<TransferRequest>(&bytes);
        if let Ok(TransferResponse::Manifest(manifest)) = borsh::from_slice(&bytes) {
            let _ = manifest.validate();
        }
        if let Ok(TransferResponse::Round(round)) = borsh::from_slice(&bytes) {
            let _ = round.validate();
        }
    }

    #[test]
    fn every_answer_fits_in_a_frame(layers in vec(layer(), 1..3), index in 0..8u32) {
        block_on(async {
            let from = tempfile::tempdir().unwrap();
            let (stores, diff_ids) = stores(from.path(), &layers).await;
            let blob = BlobId::Layer(diff_ids[0]);
            for body in [
                TransferBody::Manifest { which: WhichImage::Final },
                TransferBody::Page { blob, from: index },
                TransferBody::Chunks { blob, indices: vec![index; 8] },
                TransferBody::Chunks { blob, indices: vec![index; 65] },
                TransferBody::Chunks { blob: BlobId::Layer(Digest([0; 32])), indices: vec![index] },
            ] {
                assert!(borsh::to_vec(&stores.answer(body).await).unwrap().len() <= MAX_RESPONSE);
            }
        });
    }
}
