//! Frames of the request-response protocols: four bytes of length, big-endian, then as many bytes.

use std::io;

use futures::prelude::*;
use libp2p::{StreamProtocol, request_response};

use crate::protocol::Protocol;

/// How much is reserved at once while a frame is read: a peer pays for memory with bytes, not with a claimed length.
const STEP: usize = 64 * 1024;

/// Reads and writes the frames of one protocol within its limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameCodec {
    max_request: usize,
    max_response: usize,
}

impl FrameCodec {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let limits = protocol.limits();
        Self {
            max_request: limits.max_request,
            max_response: limits.max_response,
        }
    }
}

impl request_response::Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, self.max_request).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, self.max_response).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &request, self.max_request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &response, self.max_response).await
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

async fn read_frame<T: AsyncRead + Unpin>(io: &mut T, limit: usize) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).await?;
    let length = u32::from_be_bytes(prefix) as usize;
    check(length, limit)?;
    let mut frame = Vec::new();
    while frame.len() < length {
        let filled = frame.len();
        let step = STEP.max(filled).min(length - filled);
        frame.resize(filled + step, 0);
        io.read_exact(&mut frame[filled..]).await?;
    }
    Ok(frame)
}

async fn write_frame<T: AsyncWrite + Unpin>(io: &mut T, frame: &[u8], limit: usize) -> io::Result<()> {
    check(frame.len(), limit)?;
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(frame).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

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
            block_on(write_frame(&mut wire, &body, size)).unwrap();
            wire.set_position(0);
            assert_eq!(block_on(read_frame(&mut wire, size)).unwrap(), body);
        }
    }

    #[test]
    fn oversize_is_refused_on_both_sides() {
        let error = block_on(write_frame(&mut Cursor::new(Vec::new()), &[0; 5], 4)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = block_on(read_frame(&mut frame(5, &[0; 5]), 4)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn truncated_frames_are_errors() {
        for (length, body) in [(3, &b"ab"[..]), (1, &b""[..])] {
            let error = block_on(read_frame(&mut frame(length, body), 16)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut short = Cursor::new(vec![0, 0]);
        let error = block_on(read_frame(&mut short, 16)).unwrap_err();
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
        block_on(read_frame(&mut probe, limit)).unwrap_err();
        assert_eq!(probe.largest, STEP);
    }
}
