//! What is sent again after a cut of the link or a restart of either node: no more than what was on its way.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blosm_migrate::Digest;
use blosm_migrate::transfer::{
    AttemptStores, MAX_CHUNK, Pack, Pull, PullError, Pulled, SEEDS_FIRST, Seeds, TransferBody,
    TransferRequest, TransferResponse, WhichImage,
};
use tokio::sync::Mutex;

use crate::source::{noise, pack, stores};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
/// Bytes per second.
const LINK: f64 = 40e6;

/// A source that counts the bytes of its answers and, when it has sent so many, loses the link together with what is on it.
struct Counting {
    stores: AttemptStores,
    sent: AtomicU64,
    budget: u64,
    cut: AtomicBool,
    link: Mutex<()>,
}

impl Counting {
    fn new(stores: AttemptStores, budget: u64) -> Self {
        Self {
            stores,
            sent: AtomicU64::new(0),
            budget,
            cut: AtomicBool::new(false),
            link: Mutex::new(()),
        }
    }

    async fn answer(&self, request: TransferRequest) -> Result<TransferResponse, &'static str> {
        if self.cut.load(Ordering::SeqCst) {
            return Err("no link");
        }
        let answer = self.stores.answer(request.body).await;
        let sent = self.sent.fetch_add(answer.wire_len(), Ordering::SeqCst) + answer.wire_len();
        if sent > self.budget {
            self.cut.store(true, Ordering::SeqCst);
        }
        // One after the other over the link, on which a cut loses it.
        let time = Duration::from_secs_f64(answer.wire_len() as f64 / LINK);
        let link = self.link.lock().await;
        tokio::time::sleep(time).await;
        drop(link);
        if self.cut.load(Ordering::SeqCst) {
            Err("cut")
        } else {
            Ok(answer)
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

/// One try of a destination that has just started: nothing but the folder is left of earlier ones.
async fn pull(source: &Counting, folder: &Path, diff_ids: &[Digest]) -> Result<Pulled, PullError> {
    pull_into(source, folder, &pack(folder), diff_ids).await
}

async fn pull_into(
    source: &Counting,
    folder: &Path,
    pack: &Arc<Pack>,
    diff_ids: &[Digest],
) -> Result<Pulled, PullError> {
    let pull = Pull::new([1; 16], folder, Arc::clone(pack), |request| {
        source.answer(request)
    });
    let (manifest, _, _) = pull.manifest(WhichImage::Final).await?;
    pull.layers(&manifest, diff_ids, None).await
}

fn shorten(path: &Path, by: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(by)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_costs_what_was_on_its_way() {
    let layer = vec![noise(SIZE as usize, 1)];
    for percent in [10, 50, 90] {
        for torn in [false, true] {
            let what = format!("cut at {percent} %, torn {torn}");
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (offered, diff_ids) = stores(from.path(), &layer).await;
            let first = Counting::new(offered, SIZE * percent / 100);
            let error = pull(&first, to.path(), &diff_ids).await.unwrap_err();
            assert!(
                matches!(error, PullError::Fetch(_)) && !error.peer_fault(),
                "{what}: {error}"
            );
            if torn {
                shorten(&to.path().join("chunks.pack"), 1000);
                shorten(&to.path().join("chunks.index"), 7);
            }
            // The source has restarted as well: it cuts the layer into the same chunks again.
            let (offered, _) = stores(from.path(), &layer).await;
            let second = Counting::new(offered, u64::MAX);
            let pulled = pull(&second, to.path(), &diff_ids).await.unwrap();
            let twice = (first.sent() + second.sent()).saturating_sub(SIZE);
            // A torn pack and a torn index lack a chunk each.
            let lost = if torn { 2 * MAX_CHUNK as u64 } else { 0 };
            assert!(twice <= MIB + lost, "{what}: {twice} bytes were sent twice");
            assert!(pulled.figures.reused > 0, "{what}");
            assert_eq!(
                std::fs::read(&pulled.layers[&diff_ids[0]].path).unwrap(),
                layer[0],
                "{what}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_given_up_and_tried_again_goes_on_where_it_was() {
    let layer = vec![noise(SIZE as usize, 2)];
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (offered, diff_ids) = stores(from.path(), &layer).await;
    let source = Counting::new(offered, u64::MAX);
    let kept = pack(to.path());
    for share in [SIZE / 4, SIZE / 2] {
        let enough = async {
            while source.sent() < share {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = pull_into(&source, to.path(), &kept, &diff_ids) => panic!("nobody waits for the end"),
            () = enough => {}
        }
    }
    let pulled = pull_into(&source, to.path(), &kept, &diff_ids).await.unwrap();
    assert_eq!(
        std::fs::read(&pulled.layers[&diff_ids[0]].path).unwrap(),
        layer[0]
    );
    let twice = source.sent() - SIZE;
    assert!(
        twice <= 2 * MIB,
        "{twice} bytes were sent twice after two interruptions"
    );
    // A whole layer is not even read chunk by chunk again.
    let before = source.sent();
    let again = pull_into(&source, to.path(), &kept, &diff_ids).await.unwrap();
    assert_eq!(again.figures.chunks, 0);
    assert!(source.sent() - before < MIB / 16, "only the manifest");
}

#[tokio::test]
async fn what_is_in_another_layer_or_a_seed_is_not_asked_for() {
    let old = noise(2 << 20, 3);
    let new = [noise(5000, 4), old.clone(), vec![0; 1 << 20], noise(70_000, 5)].concat();
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (offered, diff_ids) = stores(from.path(), &[new.clone(), [new.clone(), vec![1]].concat()]).await;
    let source = Counting::new(offered, u64::MAX);
    let seeds: Seeds = Box::new(std::iter::once(
        Box::new(std::io::Cursor::new(old)) as Box<dyn std::io::Read + Send>
    ));
    let pull = Pull::new([1; 16], to.path(), pack(to.path()), |request| {
        source.answer(request)
    });
    let (manifest, _, _) = pull.manifest(WhichImage::Final).await.unwrap();
    let pulled = pull.layers(&manifest, &diff_ids, Some(seeds)).await.unwrap();
    assert_eq!(std::fs::read(&pulled.layers[&diff_ids[0]].path).unwrap(), new);
    let figures = pulled.figures;
    assert!(
        figures.zero >= 2 && figures.reused > figures.chunks,
        "{figures:?}"
    );
    // Not the seed's two megabytes, not the zeros, and nothing of the first layer again.
    assert!(figures.chunk_bytes < 1 << 20, "{figures:?}");
}

/// A seed that is read only once chunks were asked for, and tells when it has been read or was given up.
struct Late<R> {
    bytes: R,
    asked: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
}

impl<R: std::io::Read> std::io::Read for Late<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        wait_for(&self.asked)?;
        self.bytes.read(buffer)
    }
}

impl<R> Drop for Late<R> {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread that reads a seed, and no task, waits for the test"
)]
fn wait_for(flag: &AtomicBool) -> std::io::Result<()> {
    for _ in 0..60_000 {
        if flag.load(Ordering::SeqCst) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_does_not_wait_for_many_seeds_and_does_not_bring_what_they_hold() {
    let (fresh, known) = (noise(6 << 20, 6), noise(6 << 20, 7));
    let layer = [fresh, known.clone()].concat();
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (offered, diff_ids) = stores(from.path(), std::slice::from_ref(&layer)).await;
    let source = Counting::new(offered, u64::MAX);
    let flag = || Arc::new(AtomicBool::new(false));
    let (asked, read, given_up) = (flag(), flag(), flag());
    let late = Late {
        bytes: std::io::Cursor::new(known),
        asked: asked.clone(),
        gone: read.clone(),
    };
    let endless = Late {
        bytes: std::io::repeat(1),
        asked: asked.clone(),
        gone: given_up.clone(),
    };
    let many = std::io::Read::take(std::io::repeat(0), SEEDS_FIRST);
    let seeds: Vec<Box<dyn std::io::Read + Send>> = vec![Box::new(many), Box::new(late), Box::new(endless)];
    let (asked, read, source) = (&asked, &read, &source);
    let fetch = |request: TransferRequest| async move {
        if let TransferBody::Chunks { .. } = request.body {
            asked.store(true, Ordering::SeqCst);
            // The first answers come when the seed was read: what it holds is not asked for yet.
            while !read.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        source.answer(request).await
    };
    let pull = Pull::new([1; 16], to.path(), pack(to.path()), fetch);
    let (manifest, _, _) = pull.manifest(WhichImage::Final).await.unwrap();
    let pulled = pull
        .layers(&manifest, &diff_ids, Some(Box::new(seeds.into_iter())))
        .await
        .unwrap();
    assert_eq!(std::fs::read(&pulled.layers[&diff_ids[0]].path).unwrap(), layer);
    let figures = pulled.figures;
    assert!(figures.chunk_bytes < 7 << 20, "{figures:?}");
    assert!(figures.chunk_bytes >= 6 << 20, "{figures:?}");
    // The last seed has no end: it is looked through as long as something is wanted.
    tokio::task::spawn_blocking(move || wait_for(&given_up))
        .await
        .unwrap()
        .unwrap();
}
