//! The helper's side: who may connect, and one thread per connection.

mod connection;
mod container;
mod gated;
mod mapped;
mod mount;
mod source;
mod volumes;

use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::Uid;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::frame;
use super::protocol::{Refusal, Reply};
use connection::Connection;

/// Connections at a time; each holds one container. One more is refused.
const MAX_CONNECTIONS: usize = 64;
/// How long an earlier helper may take to end.
const MAKE_WAY: Duration = Duration::from_secs(2);

/// What a helper is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens. What an earlier helper left there is replaced.
    pub socket: PathBuf,
    /// `unix:///path` of the container engine.
    pub engine: String,
    /// Folder that rounds are written in, as files without a name.
    pub spool: PathBuf,
    /// Who owns the socket and may connect, beside root.
    pub user: u32,
    /// The network whose containers it serves; any network's without.
    pub network: Option<String>,
}

/// Why a helper cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another one listens there.
    #[error("another helper serves {}; stop it first", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket lies there.
    #[error("{} is no socket; give another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A helper that listens.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    settings: Arc<Settings>,
}

impl Server {
    /// Listens. The socket is open to its owner alone before anyone can connect.
    ///
    /// Changes the process's umask for a moment: to be called before other threads make files.
    ///
    /// # Errors
    /// The socket is another helper's, or cannot be made.
    pub fn bind(settings: Settings) -> Result<Self, ServeError> {
        let path = &settings.socket;
        make_way(path)?;
        let failed = |what| {
            let path = path.clone();
            move |source| ServeError::Io { what, path, source }
        };
        let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(umask);
        let listener = bound.map_err(failed("cannot listen on"))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))
            .map_err(failed("cannot set the mode of"))?;
        let user = Some(Uid::from_raw(settings.user));
        rustix::fs::chown(path, user, None)
            .map_err(|error| failed("cannot give to its user")(error.into()))?;
        Ok(Self {
            listener,
            settings: Arc::new(settings),
        })
    }

    /// Serves until accepting fails for good.
    ///
    /// # Errors
    /// Why it failed.
    pub fn run(self) -> Result<(), ServeError> {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => serve(stream, &self.settings, &open),
                Err(error) if is_passing(&error) => {}
                Err(source) => {
                    return Err(ServeError::Io {
                        what: "cannot accept on",
                        path: self.settings.socket.clone(),
                        source,
                    });
                }
            }
        }
    }
}

/// Removes the socket of a helper that has ended.
fn make_way(path: &Path) -> Result<(), ServeError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| ServeError::Io { what, path, source }
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("cannot look at")(error)),
        Ok(meta) if !meta.file_type().is_socket() => Err(ServeError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed("cannot remove the old socket"))
            }
            Ok(earlier) if ends(&earlier) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("cannot remove the old socket")(error))
                }
                _ => Ok(()),
            },
            Ok(_) => Err(ServeError::Taken(path.to_owned())),
            Err(error) => Err(failed("cannot try")(error)),
        },
    }
}

/// Whether the helper at the other end ends soon: that of a node which has just died and is being started again does.
fn ends(earlier: &UnixStream) -> bool {
    let mut stream = earlier;
    match stream.set_read_timeout(Some(MAKE_WAY)) {
        Ok(()) => match stream.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        },
        Err(_) => false,
    }
}

/// The connection failed before it was taken up.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted};
    matches!(error.kind(), ConnectionAborted | Interrupted)
}

fn serve(stream: UnixStream, settings: &Arc<Settings>, open: &Arc<AtomicUsize>) {
    let peer = rustix::net::sockopt::socket_peercred(&stream).map(|peer| peer.uid.as_raw());
    if !peer.is_ok_and(|uid| uid == settings.user || uid == 0) {
        tracing::warn!(?peer, "a connection of another user was closed");
        return;
    }
    let Some(place) = Place::take(open) else {
        // The other end may be gone already.
        let _ = frame::send(&stream, &Reply::Refused(Refusal::Busy), None);
        return;
    };
    let settings = settings.clone();
    let spawned = std::thread::Builder::new()
        .name("connection".to_owned())
        .spawn(move || {
            if let Err(error) = Connection::new(stream, settings).run() {
                tracing::debug!(%error, "a connection failed");
            }
            drop(place);
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "a connection cannot be served");
    }
}

/// One of the connections that are served; given back however it ends.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(open.clone());
        (open.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives up, in this thread and those that it starts, what a helper never needs of root's rights. What stays: reading
/// and writing others' files with all their attributes, seeing into others' processes, sending them signals.
///
/// # Errors
/// The kernel refuses.
pub fn keep_needed_rights() -> io::Result<()> {
    let needed = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::SETFCAP
        | CapabilitySet::KILL
        | CapabilitySet::SYS_PTRACE
        // `trusted.*` attributes, and being told of changes.
        | CapabilitySet::SYS_ADMIN;
    keep_rights(needed)
}

/// Gives up, in this thread and those that it starts, all capabilities but those of `needed`, for good.
///
/// # Errors
/// The kernel refuses.
pub fn keep_rights(needed: CapabilitySet) -> io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & needed;
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}
