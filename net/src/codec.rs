//! Frames of the request-response protocols: four bytes of length, big-endian, then as many bytes.

use std::io;
use std::time::Duration;

use futures::prelude::*;
use libp2p::{StreamProtocol, request_response};

use crate::event::Answer;
use crate::protocol::{Protocol, major_of};

/// How much is reserved at once while a frame is read: a peer pays for memory with bytes, not with a claimed length.
const STEP: usize = 64 * 1024;
/// How long the next step of a frame may take at most, in either direction. Over the slowest link that a node can work with,
/// a step takes a tenth of it.
const STEP_TIME: Duration = Duration::from_secs(10);

/// What goes out as a request, or came in as one. The two that are none are reported all the same, since only a report
/// names the peer.
#[derive(Debug)]
pub(crate) enum Request {
    /// To be sent: the message in each major. Which of them goes is known when the two ends have settled on one.
    Out(Vec<(u16, Vec<u8>)>),
    /// A request within its limits.
    Whole {
        /// The major in which it came, and in which its answer goes.
        major: u16,
        /// The message.
        data: Vec<u8>,
    },
    /// A frame over the limit; none of it was read.
    Oversize,
    /// A frame that was begun and did not go on.
    Stalled,
}

/// Reads and writes the frames of one protocol within its limits. A frame over a limit is an error of the kind
/// `InvalidData`, and nothing else is: it tells misbehaviour from a broken stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameCodec {
    max_request: usize,
    max_response: usize,
    step: Duration,
}

impl FrameCodec {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let limits = protocol.limits();
        Self::with_limits(limits.max_request, limits.max_response, limits.timeout)
    }

    pub(crate) fn with_limits(max_request: usize, max_response: usize, timeout: Duration) -> Self {
        Self {
            max_request,
            max_response,
            // Well before the whole exchange is over: what is cut off by that end is not reported.
            step: STEP_TIME.min(timeout / 2),
        }
    }
}

impl request_response::Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Answer;

    async fn read_request<T>(&mut self, name: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read_frame(io, self.max_request, self.step).await {
            Ok(data) => Ok(Request::Whole {
                major: major_of(name),
                data,
            }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Request::Oversize),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Request::Stalled),
            Err(error) => Err(error),
        }
    }

    async fn read_response<T>(&mut self, name: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(Answer {
            major: major_of(name),
            data: read_frame(io, self.max_response, self.step).await?,
        })
    }

    async fn write_request<T>(
        &mut self,
        name: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let Request::Out(messages) = request else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let settled = major_of(name);
        let Some((_, frame)) = messages.into_iter().find(|(major, _)| *major == settled) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        write_frame(io, &frame, self.max_request, self.step).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Answer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &response.data, self.max_response, self.step).await
    }
}

fn check(length: usize, limit: usize) -> io::Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a frame of {length} bytes is over the limit of {limit}"),
    ))
}

async fn read_frame<T: AsyncRead + Unpin>(io: &mut T, limit: usize, time: Duration) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    step(time, io.read_exact(&mut prefix)).await?;
    let length = u32::from_be_bytes(prefix) as usize;
    check(length, limit)?;
    let mut frame = Vec::new();
    while frame.len() < length {
        let filled = frame.len();
        // The memory doubles; a step stays a step, so that a slow link is no stalled one.
        if frame.capacity() - filled < STEP.min(length - filled) {
            frame.reserve_exact(STEP.max(filled).min(length - filled));
        }
        frame.resize(filled + STEP.min(length - filled), 0);
        step(time, io.read_exact(&mut frame[filled..])).await?;
    }
    Ok(frame)
}

async fn write_frame<T: AsyncWrite + Unpin>(
    io: &mut T,
    frame: &[u8],
    limit: usize,
    time: Duration,
) -> io::Result<()> {
    check(frame.len(), limit)?;
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    // yamux sends what one call brings: a length by itself would be a packet of its own.
    let (first, rest) = frame.split_at(frame.len().min(STEP - size_of_val(&length)));
    step(time, io.write_all(&[&length.to_be_bytes(), first].concat())).await?;
    for part in rest.chunks(STEP) {
        step(time, io.write_all(part)).await?;
    }
    step(time, io.flush()).await
}

/// A peer that does not read, or does not go on, holds memory no longer than this.
async fn step<T>(time: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, io)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::io::Cursor;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn frame(length: u32, body: &[u8]) -> Cursor<Vec<u8>> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        Cursor::new(bytes)
    }

    #[test]
    fn frames_round_trip() {
        for size in [0, 1, STEP - 1, STEP, STEP + 1, 5 * STEP + 3] {
            let body: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let mut wire = Cursor::new(Vec::new());
            block_on(write_frame(&mut wire, &body, size, STEP_TIME)).unwrap();
            wire.set_position(0);
            assert_eq!(block_on(read_frame(&mut wire, size, STEP_TIME)).unwrap(), body);
        }
    }

    #[test]
    fn the_stream_says_which_major_is_written_and_what_was_read() {
        use request_response::Codec;

        use crate::protocol::stream_protocol;
        let mut codec = FrameCodec::new(Protocol::Ledger);
        let out = || Request::Out(vec![(2, b"new".to_vec()), (1, b"old".to_vec())]);
        for (settled, expected) in [(1, b"old"), (2, b"new")] {
            let name = stream_protocol("0a1b2c3d", "ledger", settled);
            let mut wire = Cursor::new(Vec::new());
            block_on(codec.write_request(&name, &mut wire, out())).unwrap();
            wire.set_position(0);
            let read = block_on(codec.read_request(&name, &mut wire)).unwrap();
            assert!(
                matches!(&read, Request::Whole { major, data } if *major == settled && data == expected),
                "{read:?}"
            );
            let answer = Answer {
                major: settled,
                data: expected.to_vec(),
            };
            let mut wire = Cursor::new(Vec::new());
            block_on(codec.write_response(&name, &mut wire, answer.clone())).unwrap();
            wire.set_position(0);
            assert_eq!(block_on(codec.read_response(&name, &mut wire)).unwrap(), answer);
        }
        // A major that the message has no bytes for writes none.
        let name = stream_protocol("0a1b2c3d", "ledger", 3);
        let mut wire = Cursor::new(Vec::new());
        let error = block_on(codec.write_request(&name, &mut wire, out())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(wire.into_inner().is_empty());
    }

    /// Notes how much each write brings.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(data.len());
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_length_goes_with_the_bytes_that_it_is_of() {
        let cases: [(usize, &[usize]); 3] = [(0, &[4]), (300, &[304]), (STEP + 1, &[STEP, 5])];
        for (size, expected) in cases {
            let mut writes = Writes::default();
            block_on(write_frame(&mut writes, &vec![0; size], size, STEP_TIME)).unwrap();
            assert_eq!(writes.0, expected);
        }
    }

    #[test]
    fn oversize_is_refused_on_both_sides() {
        let error = block_on(write_frame(&mut Cursor::new(Vec::new()), &[0; 5], 4, STEP_TIME)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = block_on(read_frame(&mut frame(5, &[0; 5]), 4, STEP_TIME)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn truncated_frames_are_errors() {
        for (length, body) in [(3, &b"ab"[..]), (1, &b""[..])] {
            let error = block_on(read_frame(&mut frame(length, body), 16, STEP_TIME)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut short = Cursor::new(vec![0, 0]);
        let error = block_on(read_frame(&mut short, 16, STEP_TIME)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Gives a prefix and then ends, and notes the largest buffer that it was offered.
    struct Probe {
        prefix: Vec<u8>,
        largest: usize,
    }

    impl AsyncRead for Probe {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.largest = self.largest.max(buffer.len());
            let count = buffer.len().min(self.prefix.len());
            for (to, from) in buffer.iter_mut().zip(self.prefix.drain(..count)) {
                *to = from;
            }
            Poll::Ready(Ok(count))
        }
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        let limit = Protocol::Relay.limits().max_request;
        let mut probe = Probe {
            prefix: (limit as u32).to_be_bytes().to_vec(),
            largest: 0,
        };
        block_on(read_frame(&mut probe, limit, STEP_TIME)).unwrap_err();
        assert_eq!(probe.largest, STEP);
    }
}
