//! What arrives at the helper's socket and is no proper request, or from nobody who may ask.

use std::fs::{File, Permissions};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use blosm_migrate::Digest;
use blosm_migrate::helper::{
    ContainerId, Helper, HelperError, MAX_FRAME, Marker, Refusal, Reply, Request, ServeError, Server,
    Settings,
};
use blosm_migrate::service::StopSignal;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Gid, Uid};

const NOBODY: u32 = 65534;

struct Place(tempfile::TempDir);

impl Place {
    /// With a helper in a thread, which ends with the tests. Its engine is not there.
    fn serving(user: u32) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let server = Server::bind(place.settings(user)).unwrap();
        std::thread::spawn(move || server.run());
        place
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("socket")
    }

    fn settings(&self, user: u32) -> Settings {
        Settings {
            socket: self.socket(),
            engine: format!("unix://{}", self.0.path().join("no-engine").display()),
            spool: self.0.path().to_owned(),
            user,
            network: None,
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], body].concat()
}

fn request(request: &Request) -> Vec<u8> {
    frame(&borsh::to_vec(request).unwrap())
}

/// The next answer; `None` when the helper has closed.
fn answer(stream: &mut UnixStream) -> Option<Reply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).ok()?;
    Some(borsh::from_slice(&body).unwrap())
}

fn ask(stream: &mut UnixStream, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> Option<Reply> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(passed)));
    }
    let sent = sendmsg(
        &*stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    stream.write_all(&bytes[sent..]).unwrap();
    answer(stream)
}

fn refused(reply: Option<Reply>) -> Refusal {
    match reply {
        Some(Reply::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn hello(stream: &mut UnixStream) {
    let reply = ask(stream, &request(&Request::Hello), &[]);
    assert!(matches!(reply, Some(Reply::Hello(_))), "{reply:?}");
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_served() {
    let place = Place::serving(0);
    let mut stream = place.connect();
    let hello_and_more = [borsh::to_vec(&Request::Hello).unwrap(), vec![0]].concat();
    let short_id = vec![1; 32];
    let long_chain = [vec![10], u32::MAX.to_le_bytes().to_vec()].concat();
    for body in [
        vec![],
        vec![11],
        vec![0xff; 1000],
        vec![3, 8],
        hello_and_more,
        short_id,
        long_chain,
        vec![0; MAX_FRAME],
    ] {
        let reply = ask(&mut stream, &frame(&body), &[]);
        assert_eq!(
            refused(reply),
            Refusal::Malformed,
            "{:?}",
            &body[..body.len().min(9)]
        );
    }
    hello(&mut stream);
}

#[test]
fn a_frame_that_cannot_be_skipped_ends_the_connection() {
    let place = Place::serving(0);
    for bytes in [
        vec![0xff; 4],
        (MAX_FRAME as u32 + 1).to_le_bytes().to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = place.connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(answer(&mut stream), None);
    }
    // Cut off in its length, and in its body.
    for bytes in [vec![1], frame(&[0; 9])[..9].to_vec()] {
        let mut stream = place.connect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(answer(&mut stream), None);
    }
    hello(&mut place.connect());
}

#[test]
fn a_descriptor_comes_with_a_stream_and_with_nothing_else() {
    let place = Place::serving(0);
    let mut stream = place.connect();
    let apply = request(&Request::Apply);
    let file = tempfile::tempfile().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let folder = File::open(place.0.path()).unwrap();
    let device = File::open("/dev/zero").unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let path: OwnedFd =
        rustix::fs::open("/etc/hosts", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for passed in [
        &[][..],
        &[folder.as_fd()],
        &[device.as_fd()],
        &[socket.as_fd()],
        &[writer.as_fd()],
        &[path.as_fd()],
        &[file.as_fd(), file.as_fd()],
    ] {
        let reply = ask(&mut stream, &apply, passed);
        assert_eq!(refused(reply), Refusal::Descriptor, "{passed:?}");
    }
    for request in [
        request(&Request::Hello),
        request(&Request::Sync),
        request(&Request::Source(ContainerId([1; 32]))),
    ] {
        let reply = ask(&mut stream, &request, &[file.as_fd()]);
        assert_eq!(refused(reply), Refusal::Descriptor);
    }
    // The right kind, but there is nothing to apply it to.
    for passed in [file.as_fd(), reader.as_fd()] {
        let reply = ask(&mut stream, &apply, &[passed]);
        assert_eq!(refused(reply), Refusal::OutOfPlace);
    }
    hello(&mut stream);
    // More descriptors than there is room for.
    let many = [file.as_fd(); 8];
    assert_eq!(ask(&mut stream, &apply, &many), None);
}

#[test]
fn what_needs_a_container_needs_it_first() {
    let place = Place::serving(0);
    let mut stream = place.connect();
    for request in [
        Request::Round,
        Request::Last,
        Request::Exit,
        Request::Signal(StopSignal::SigKill),
        Request::Sync,
        Request::Prove(Marker([0; 16])),
    ] {
        let reply = ask(&mut stream, &self::request(&request), &[]);
        assert_eq!(refused(reply), Refusal::OutOfPlace, "{request:?}");
    }
    // Without an engine nothing is known of any container or image.
    for request in [
        Request::Source(ContainerId([1; 32])),
        Request::Gated(ContainerId([1; 32])),
        Request::Layer {
            chain: vec![Digest([1; 32])],
            which: 0,
        },
    ] {
        let reply = ask(&mut stream, &self::request(&request), &[]);
        assert!(matches!(reply, Some(Reply::Failed(_))), "{reply:?}");
    }
}

#[test]
fn only_its_user_and_root_are_served() {
    let place = Place::serving(NOBODY);
    let socket = place.socket();
    let meta = socket.metadata().unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, NOBODY));
    std::fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
    hello(&mut place.connect());
    assert!(matches!(as_user(NOBODY, &socket), Some(Reply::Hello(_))));

    // Of another user: not even if the socket's mode let it in.
    let place = Place::serving(0);
    let socket = place.socket();
    std::fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(as_user(NOBODY, &socket), None);
    hello(&mut place.connect());
}

/// Says hello as another user; `None` when it is closed without an answer.
fn as_user(uid: u32, socket: &Path) -> Option<Reply> {
    let socket = socket.to_owned();
    let thread = std::thread::spawn(move || {
        // This thread's alone, and it ends here.
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        // It may be closed before this arrives.
        let _ = stream.write_all(&request(&Request::Hello));
        answer(&mut stream)
    });
    thread.join().unwrap()
}

#[test]
fn a_socket_is_taken_over_only_from_a_helper_that_has_ended() {
    let place = Place(tempfile::tempdir().unwrap());
    std::fs::write(place.socket(), "precious").unwrap();
    assert!(matches!(
        Server::bind(place.settings(0)),
        Err(ServeError::NotASocket(_))
    ));
    assert_eq!(std::fs::read(place.socket()).unwrap(), b"precious");
    std::fs::remove_file(place.socket()).unwrap();
    drop(Server::bind(place.settings(0)).unwrap());
    assert!(place.socket().exists());
    let server = Server::bind(place.settings(0)).unwrap();
    assert!(matches!(
        Server::bind(place.settings(0)),
        Err(ServeError::Taken(_))
    ));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_or_dying_helper_is_an_error_that_says_so() {
    let place = Place(tempfile::tempdir().unwrap());
    let helper = Helper::new(&place.socket());
    let absent = helper.hello().await.unwrap_err();
    assert!(matches!(absent, HelperError::NotThere { .. }), "{absent}");
    assert!(absent.to_string().contains("helper.socket"), "{absent}");
    let listener = std::os::unix::net::UnixListener::bind(place.socket()).unwrap();
    std::thread::spawn(move || drop(listener.accept()));
    let died = helper.source(&"ab".repeat(32)).await.unwrap_err();
    assert!(matches!(died, HelperError::Died), "{died}");
}
