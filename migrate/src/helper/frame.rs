//! Frames on the helper's socket: four bytes of length, then one borsh value; a descriptor may come with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use borsh::{BorshDeserialize, BorshSerialize};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::protocol::MAX_FRAME;

/// Descriptors that one read has room for; a frame may bring one.
const ROOM: usize = 4;

/// What became of reading a frame.
pub(super) enum Frame<T> {
    /// The other end has closed, between two frames.
    Closed,
    /// A value.
    Value {
        /// Decoded.
        value: T,
        /// What came along.
        descriptor: Option<OwnedFd>,
    },
    /// Whole, but more descriptors than one.
    Descriptors,
    /// Whole, but its bytes are no such value.
    Malformed,
}

/// Sends one value, and a descriptor with it.
pub(super) fn send(
    stream: &UnixStream,
    value: &impl BorshSerialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let body = borsh::to_vec(value)?;
    if body.len() > MAX_FRAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let passed = descriptor.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(passed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let slice = [IoSlice::new(&bytes[sent..])];
        match sendmsg(stream, &slice, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(count) => {
                sent += count;
                ancillary.clear();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads one value.
///
/// # Errors
/// The stream ends within a frame, or says that a frame is longer than [`MAX_FRAME`]: it is of no use any more.
pub(super) fn receive<T: BorshDeserialize>(stream: &UnixStream) -> io::Result<Frame<T>> {
    let mut descriptors = Vec::new();
    let mut length = [0; 4];
    if !fill(stream, &mut length, &mut descriptors)? {
        return Ok(Frame::Closed);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    if length > 0 && !fill(stream, &mut body, &mut descriptors)? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Ok(value) = borsh::from_slice(&body) else {
        return Ok(Frame::Malformed);
    };
    if descriptors.len() > 1 {
        return Ok(Frame::Descriptors);
    }
    Ok(Frame::Value {
        value,
        descriptor: descriptors.pop(),
    })
}

/// Fills the buffer; false when the stream ends before its first byte.
fn fill(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slice = [IoSliceMut::new(&mut buffer[filled..])];
        let received = match recvmsg(stream, &mut slice, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > ROOM {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if received.bytes == 0 {
            return if filled == 0 {
                Ok(false)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        filled += received.bytes;
    }
    Ok(true)
}
