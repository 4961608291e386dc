//! One blob: requests in flight as the window allows, answers verified, chunks given on in order.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::super::batch::{Batch, BatchError};
use super::super::chunk::{Chunk, MAX_CHUNK};
use super::super::pack::Pack;
use super::super::window::{Next, Ticket, Window};
use super::super::wire::{BlobId, TransferBody, TransferRequest, TransferResponse};
use super::plan::{Given, Head, Plan};
use super::{Figures, Pull, PullError};

static ZEROS: [u8; MAX_CHUNK] = [0; MAX_CHUNK];

/// Verified chunks with their indices.
type Opened = Vec<(u32, Bytes)>;
type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
type Working<'a> = Pin<Box<dyn Future<Output = Result<Come, PullError>> + Send + 'a>>;

/// What a blocking thread has done.
enum Come {
    /// Verified what the source sent.
    Sent(Opened),
    /// Looked for these in the pack.
    Read(Vec<(u32, Option<Bytes>)>),
}

/// What came for one request.
struct Answer {
    indices: Vec<u32>,
    ticket: Ticket,
    at: Instant,
    answer: Result<(TransferResponse, u64), PullError>,
}

impl<F, Fut, E> Pull<F>
where
    F: Fn(TransferRequest) -> Fut + Sync,
    Fut: Future<Output = Result<TransferResponse, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Pulls what of these chunks neither came already nor is in the pack.
    pub(super) async fn run(
        &self,
        blob: BlobId,
        chunks: &[Chunk],
        came: Opened,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<Figures, PullError> {
        let began = Instant::now();
        let mut window = self.window.lock().await;
        window.begin();
        let mut run = Run {
            pull: self,
            blob,
            chunks,
            plan: Plan::new(chunks, |chunk| self.pack.holds(chunk)),
            figures: Figures::default(),
            asking: FuturesUnordered::new(),
            working: FuturesUnordered::new(),
            loading: false,
        };
        run.sent(came);
        let ended = run.drive(&mut window, &sink).await;
        // What has come is kept for the next try, whatever ended this one.
        while run.working.next().await.is_some() {}
        run.figures.time = began.elapsed();
        ended.map(|()| run.figures)
    }
}

struct Run<'a, F> {
    pull: &'a Pull<F>,
    blob: BlobId,
    chunks: &'a [Chunk],
    plan: Plan<'a>,
    figures: Figures,
    /// Requests on their way.
    asking: FuturesUnordered<Asking<'a>>,
    /// Answers that are being verified, and chunks that are being read from the pack.
    working: FuturesUnordered<Working<'a>>,
    loading: bool,
}

impl<'a, F, Fut, E> Run<'a, F>
where
    F: Fn(TransferRequest) -> Fut + Sync,
    Fut: Future<Output = Result<TransferResponse, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn drive(&mut self, window: &mut Window, sink: &mpsc::Sender<Bytes>) -> Result<(), PullError> {
        let mut next: Option<Bytes> = None;
        loop {
            // Before the look at the head: it may turn out to be in the pack.
            let pause = self.ask(window);
            if next.is_none() {
                match self.plan.head() {
                    Head::End => return Ok(()),
                    Head::Give(given) => next = Some(self.given(given)),
                    Head::Load if !self.loading => self.load(),
                    Head::Load | Head::Wait => {}
                }
            }
            // One of them always can: a chunk that is waited for is on its way, being read, or held by the cap.
            tokio::select! {
                permit = sink.reserve(), if next.is_some() => {
                    let bytes = next.take().expect("it was there before the wait");
                    permit.map_err(|_| PullError::Sink)?.send(bytes);
                }
                Some(answer) = self.asking.next(), if !self.asking.is_empty() => self.answered(answer, window)?,
                Some(come) = self.working.next(), if !self.working.is_empty() => self.come(come?),
                () = sleep_until(pause), if pause.is_some() => {}
            }
        }
    }

    /// Sends what may be sent; the time until which the cap allows no more.
    fn ask(&mut self, window: &mut Window) -> Option<Instant> {
        loop {
            let now = Instant::now();
            let plain = match window.next(now) {
                Next::Ask(plain) => plain,
                Next::Wait => return None,
                Next::At(at) => return Some(at),
            };
            let pull = self.pull;
            let indices = self.plan.ask(plain, |chunk| pull.pack.holds(chunk))?;
            let ticket = window.sent(now, plain_len(self.chunks, &indices));
            let body = TransferBody::Chunks {
                blob: self.blob,
                indices: indices.clone(),
            };
            self.asking.push(Box::pin(async move {
                let answer = pull.ask(body).await;
                Answer {
                    indices,
                    ticket,
                    at: Instant::now(),
                    answer,
                }
            }));
        }
    }

    fn answered(&mut self, answer: Answer, window: &mut Window) -> Result<(), PullError> {
        let Answer {
            indices,
            ticket,
            at,
            answer,
        } = answer;
        let (response, wire_bytes) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                window.lost(ticket);
                return Err(error);
            }
        };
        window.answered(at, ticket, wire_bytes);
        let TransferResponse::Chunks(batch) = response else {
            return Err(PullError::OtherAnswer);
        };
        self.figures.wire_bytes += wire_bytes;
        let opening = open(&self.pull.pack, self.blob, self.chunks, indices, batch);
        self.working
            .push(Box::pin(async move { opening.await.map(Come::Sent) }));
        Ok(())
    }

    fn load(&mut self) {
        self.loading = true;
        let wanted: Vec<(u32, Chunk)> = self
            .plan
            .run()
            .into_iter()
            .map(|index| {
                (
                    u32::try_from(index).expect("a list is bounded"),
                    self.chunks[index],
                )
            })
            .collect();
        let pack = Arc::clone(&self.pull.pack);
        let reading = tokio::task::spawn_blocking(move || {
            let read = |(index, chunk): &(u32, Chunk)| (*index, pack.get(chunk).map(Bytes::from));
            Come::Read(wanted.iter().map(read).collect())
        });
        let path = self.pull.pack.path();
        self.working.push(Box::pin(async move {
            reading
                .await
                .map_err(|error| PullError::io(path, io::Error::other(error)))
        }));
    }

    /// Chunks were verified, or looked for in the pack.
    fn come(&mut self, come: Come) {
        match come {
            Come::Sent(opened) => self.sent(opened),
            Come::Read(read) => {
                self.loading = false;
                for (index, bytes) in read {
                    match bytes {
                        Some(bytes) => {
                            self.figures.reused += 1;
                            self.plan.put(index as usize, bytes);
                        }
                        None => self.plan.missing(index as usize),
                    }
                }
            }
        }
    }

    fn sent(&mut self, opened: Opened) {
        for (index, bytes) in opened {
            self.figures.chunks += 1;
            self.figures.chunk_bytes += bytes.len() as u64;
            self.plan.put(index as usize, bytes);
        }
    }

    fn given(&mut self, given: Given) -> Bytes {
        let bytes = match given {
            Given::Zeros(len) => {
                self.figures.zero += 1;
                Bytes::from_static(&ZEROS[..len.min(MAX_CHUNK)])
            }
            Given::Bytes(bytes) => bytes,
        };
        self.figures.bytes += bytes.len() as u64;
        bytes
    }
}

/// Unpacks and verifies a batch on a blocking thread, and keeps it in the pack.
pub(super) fn open(
    pack: &Arc<Pack>,
    blob: BlobId,
    chunks: &[Chunk],
    indices: Vec<u32>,
    batch: Batch,
) -> impl Future<Output = Result<Opened, PullError>> + Send + use<> {
    let asked: Vec<Chunk> = indices.iter().map(|index| chunks[*index as usize]).collect();
    let path = pack.path().to_owned();
    let pack = Arc::clone(pack);
    // Started at once: an answer that has come is verified and kept even if nobody waits for it.
    let opening = tokio::task::spawn_blocking(move || {
        let opened = batch.open(&asked).map_err(|error| {
            let place = match error {
                BatchError::Hash(place) => place,
                BatchError::Length => 0,
            };
            let index = indices.get(place).copied().unwrap_or_default();
            PullError::WrongChunk { blob, index }
        })?;
        for (chunk, bytes) in asked.iter().zip(&opened) {
            pack.put(chunk, bytes)
                .map_err(|source| PullError::io(pack.path(), source))?;
        }
        Ok(indices.into_iter().zip(opened).collect())
    });
    async move {
        match opening.await {
            Ok(opened) => opened,
            Err(error) => Err(PullError::io(&path, io::Error::other(error))),
        }
    }
}

fn plain_len(chunks: &[Chunk], indices: &[u32]) -> u32 {
    indices.iter().map(|index| chunks[*index as usize].len).sum()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
