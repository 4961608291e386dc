//! Rounds of the live method: small ones in one answer, large ones chunk by chunk, all of them in order.

use std::convert::Infallible;

use blosm_migrate::transfer::wire::CHUNKS_PER_PAGE;
use blosm_migrate::transfer::{
    AttemptStores, Chunk, Figures, MAX_CHUNK, Pull, PullError, RoundManifest, TransferBody, TransferRequest,
    TransferResponse, WireError,
};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::source::{chunked, noise, pack};

async fn collect(mut from: mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = from.recv().await {
        all.extend_from_slice(&bytes);
    }
    all
}

/// Pulls a round from a source whose answers pass through `twist`.
async fn pull(
    stores: &AttemptStores,
    inline: bool,
    twist: impl Fn(TransferResponse) -> TransferResponse + Sync,
) -> (Result<Figures, PullError>, Vec<u8>, Vec<TransferBody>) {
    let folder = tempfile::tempdir().unwrap();
    let asked = std::sync::Mutex::new(Vec::new());
    let fetch = |request: TransferRequest| {
        asked.lock().unwrap().push(request.body.clone());
        let twist = &twist;
        async move { Ok::<_, Infallible>(twist(stores.answer(request.body).await)) }
    };
    let pull = Pull::new([1; 16], folder.path(), pack(folder.path()), fetch);
    let (sink, from) = mpsc::channel(2);
    let pulling = async {
        let round = pull.round(1, inline).await?;
        pull.stream(round, sink).await
    };
    let (figures, all) = tokio::join!(pulling, collect(from));
    (figures, all, asked.into_inner().unwrap())
}

#[tokio::test]
async fn a_small_round_comes_in_one_answer() {
    let bytes = [noise(60_000, 1), vec![0; 40_000], noise(20_000, 2)].concat();
    let mut stores = AttemptStores::default();
    stores.put_round(1, chunked(&bytes));
    let (figures, all, asked) = pull(&stores, true, |answer| answer).await;
    let figures = figures.unwrap();
    assert!(all == bytes);
    assert_eq!(asked.len(), 1);
    assert!(
        figures.chunks > 0 && figures.reused == 0 && figures.bytes == bytes.len() as u64,
        "{figures:?}"
    );
    assert!(
        figures.wire_bytes > 80_000 && figures.wire_bytes < 100_000,
        "{figures:?}"
    );
    // The same without: its chunks are asked for.
    let (figures, all, asked) = pull(&stores, false, |answer| answer).await;
    assert!(all == bytes && asked.len() > 1, "{:?}", figures.unwrap());
    // A large one does not fit in one answer, whatever is asked.
    stores.put_round(1, chunked(&noise(3 << 20, 3)));
    let (figures, all, asked) = pull(&stores, true, |answer| answer).await;
    assert!(
        all == noise(3 << 20, 3) && asked.len() > 3,
        "{:?}",
        figures.unwrap()
    );
    // And one in which nothing changed is empty.
    stores.put_round(1, chunked(&[]));
    let (figures, all, _) = pull(&stores, true, |answer| answer).await;
    assert!(all.is_empty() && figures.unwrap().bytes == 0);
}

#[tokio::test]
async fn a_list_of_more_than_a_page_is_fetched_page_by_page() {
    let zeros = Chunk {
        hash: [0; 32],
        len: MAX_CHUNK as u32,
    };
    let chunks = vec![zeros; CHUNKS_PER_PAGE + 10];
    let round = RoundManifest {
        number: 1,
        size: (chunks.len() * MAX_CHUNK) as u64,
        root: blosm_migrate::transfer::chunk::root(&chunks),
        chunks: chunks[..CHUNKS_PER_PAGE].to_vec(),
        whole: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let fetch = |request: TransferRequest| async move {
        let TransferBody::Page { from, .. } = request.body else {
            panic!("zeros are not asked for")
        };
        assert_eq!(from as usize, CHUNKS_PER_PAGE);
        Ok::<_, Infallible>(TransferResponse::Page(vec![zeros; 10]))
    };
    let pull = Pull::new([1; 16], folder.path(), pack(folder.path()), fetch);
    let (sink, mut from) = mpsc::channel::<Bytes>(2);
    let count = async {
        let mut count = 0;
        while let Some(bytes) = from.recv().await {
            count += bytes.len() as u64;
        }
        count
    };
    let (figures, count) = tokio::join!(pull.stream(round.clone(), sink), count);
    assert_eq!(figures.unwrap().zero, chunks.len() as u64);
    assert_eq!(count, round.size);
}

#[tokio::test]
async fn rounds_come_and_go() {
    let mut stores = AttemptStores::default();
    let ask = |number| TransferBody::Round {
        number,
        inline: false,
    };
    let not_ready = TransferResponse::Refused(WireError::NotReady);
    let gone = TransferResponse::Refused(WireError::UnknownBlob);
    assert_eq!(stores.answer(ask(0)).await, not_ready);
    for number in 0..20 {
        stores.put_round(number, chunked(&[number as u8 + 1]));
    }
    assert_eq!(stores.answer(ask(20)).await, not_ready);
    assert_eq!(stores.answer(ask(3)).await, gone);
    assert!(matches!(stores.answer(ask(4)).await, TransferResponse::Round(round) if round.number == 4));
    stores.drop_rounds(19);
    assert_eq!(stores.answer(ask(18)).await, gone);
    assert!(matches!(stores.answer(ask(19)).await, TransferResponse::Round(_)));
}

#[tokio::test]
async fn lies_about_a_round_are_found_out() {
    let mut stores = AttemptStores::default();
    stores.put_round(1, chunked(&noise(100_000, 4)));
    type Edit = fn(&mut RoundManifest);
    let edits: [(&str, Edit); 5] = [
        ("another number", |round| round.number = 2),
        ("another root", |round| round.root[0] ^= 1),
        ("another size", |round| round.size += 1),
        ("a flipped bit", |round| {
            round.whole.as_mut().unwrap().bytes[9] ^= 1
        }),
        ("bytes cut off", |round| {
            round.whole.as_mut().unwrap().bytes.truncate(9)
        }),
    ];
    for (what, edit) in edits {
        let (result, all, _) = pull(&stores, true, |answer| match answer {
            TransferResponse::Round(mut round) => {
                edit(&mut round);
                TransferResponse::Round(round)
            }
            other => other,
        })
        .await;
        let error = result.unwrap_err();
        assert!(error.peer_fault(), "{what}: {error}");
        assert!(all.is_empty(), "{what}: nothing of it is given on");
    }
    let (result, ..) = pull(&stores, true, |_| TransferResponse::Page(vec![])).await;
    assert!(matches!(result, Err(PullError::OtherAnswer)));
    let (result, ..) = pull(&stores, true, |_| TransferResponse::Refused(WireError::NotReady)).await;
    assert!(matches!(result, Err(PullError::Refused(WireError::NotReady))));
}

#[tokio::test]
async fn a_sink_that_is_gone_ends_the_pull() {
    let mut stores = AttemptStores::default();
    stores.put_round(1, chunked(&noise(3 << 20, 5)));
    let folder = tempfile::tempdir().unwrap();
    let fetch = |request: TransferRequest| async { Ok::<_, Infallible>(stores.answer(request.body).await) };
    let pull = Pull::new([1; 16], folder.path(), pack(folder.path()), fetch);
    let round = pull.round(1, false).await.unwrap();
    let (sink, mut from) = mpsc::channel::<Bytes>(1);
    let one = async move { from.recv().await.map(|bytes| bytes.len()) };
    let (result, one) = tokio::join!(pull.stream(round, sink), one);
    assert!(one.is_some());
    let error = result.unwrap_err();
    assert!(matches!(error, PullError::Sink) && !error.peer_fault(), "{error}");
}
