//! The gate: the first program of a container that is made ready before its turn. It waits, then becomes the real one.
//!
//! ```text
//! open the FIFO ──▶ is there /.blosm/open? ──yes──▶ exec the real entrypoint
//!      ▲                     │ no
//!      └──── woken ◀──── poll the FIFO (no processor time)
//! ```
//!
//! The file `open` alone decides; a byte in the FIFO only wakes. Whoever opens writes the file first and then pokes the
//! FIFO, and the gate opens the FIFO first and then looks for the file: so neither can miss the other, and an opened
//! container that is started again goes straight through.
//!
//! One file, standard library only, linked statically: it runs in images that hold nothing else. It has its own `main`
//! so that Rust's runtime changes nothing of what the real program inherits.

#![no_main]

use std::ffi::{CStr, CString, c_char, c_int, c_short, c_ulong, c_void};
use std::io::Error;
use std::mem::MaybeUninit;
use std::ptr;

const FIFO: &CStr = c"/.blosm/fifo";
const OPEN: &CStr = c"/.blosm/open";
/// Where engines look when an image says nothing.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As shells and engines say "there is no such program".
const NOT_FOUND: c_int = 127;
/// As they say "it is there but cannot be run".
const NOT_RUNNABLE: c_int = 126;

/// A first process ignores every signal that it has no handler for. These ask a container to end: the usual ones, those
/// that services declare, and systemd's (PWR, RTMIN+3 as engines count it).
const STOP_SIGNALS: [c_int; 9] = [1, 2, 3, 10, 12, 15, 28, 30, 37];
const LAST_SIGNAL: c_int = 64;

const SIG_DFL: usize = 0;
const SIG_UNBLOCK: c_int = 1;
const O_RDONLY: c_int = 0;
const O_NONBLOCK: c_int = 0o4000;
const O_CLOEXEC: c_int = 0o2000000;
const F_OK: c_int = 0;
const X_OK: c_int = 1;
const POLLIN: c_short = 1;
const ENOENT: c_int = 2;
const EINTR: c_int = 4;
const EISDIR: c_int = 21;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

/// As large as glibc's and musl's `sigset_t`.
#[repr(C, align(8))]
struct Set([u8; 128]);

unsafe extern "C" {
    static environ: *const *const c_char;

    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn sigfillset(set: *mut Set) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn sigprocmask(how: c_int, set: *const Set, old: *mut Set) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
    fn _exit(status: c_int) -> !;
}

/// # Safety
/// Called by the C runtime with a null-terminated `argv`.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    take_signals();
    if argc < 2 {
        return fail(NOT_FOUND, b"nothing to run", None);
    }
    if let Err(error) = wait() {
        return fail(NOT_RUNNABLE, b"cannot wait at /.blosm/fifo", Some(&error));
    }
    // SAFETY: argc >= 2, so argv[1] is a C string and argv + 1 a null-terminated list of them.
    let (name, real_argv) = unsafe { (CStr::from_ptr(*argv.add(1)), argv.add(1)) };
    let path = match find(name) {
        Ok(path) => path,
        Err(error) => return fail(status_of(&error), name.to_bytes(), Some(&error)),
    };
    // The handlers stand until the exec itself takes them away, so no signal is lost between.
    // SAFETY: `path` is a C string; both lists are null-terminated.
    unsafe { execve(path.as_ptr(), real_argv, environ) };
    let error = Error::last_os_error();
    fail(status_of(&error), name.to_bytes(), Some(&error))
}

/// Handlers for what asks a container to end, the default for everything else, nothing blocked.
fn take_signals() {
    for number in 1..=LAST_SIGNAL {
        let handler = if STOP_SIGNALS.contains(&number) {
            end as extern "C" fn(c_int) as usize
        } else {
            SIG_DFL
        };
        // SAFETY: `end` only calls _exit, which a handler may. Numbers that cannot be set are refused by the kernel.
        unsafe { signal(number, handler) };
    }
    let mut all = MaybeUninit::<Set>::uninit();
    // SAFETY: sigfillset initialises the set; a null `old` is allowed.
    unsafe {
        sigfillset(all.as_mut_ptr());
        sigprocmask(SIG_UNBLOCK, all.as_ptr(), ptr::null_mut());
    }
}

/// What a shell and an engine report of a program that a signal ended.
extern "C" fn end(number: c_int) {
    // SAFETY: async-signal-safe, and it does not return.
    unsafe { _exit(128 + number) }
}

/// Returns once `open` is there.
fn wait() -> Result<(), Error> {
    loop {
        // Opened anew each time: a FIFO whose writer has gone would be ready for ever.
        // SAFETY: a C string, no third argument without O_CREAT.
        let fd = unsafe { open(FIFO.as_ptr(), O_RDONLY | O_NONBLOCK | O_CLOEXEC) };
        // SAFETY: a C string.
        if unsafe { access(OPEN.as_ptr(), F_OK) } == 0 {
            if fd >= 0 {
                // SAFETY: opened above, closed once.
                unsafe { close(fd) };
            }
            return Ok(());
        }
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        let mut waiting = PollFd {
            fd,
            events: POLLIN,
            revents: 0,
        };
        // SAFETY: one live entry.
        let woken = unsafe { poll(&mut waiting, 1, -1) };
        let error = (woken < 0).then(Error::last_os_error);
        // SAFETY: opened above, closed once; what was in the FIFO goes with it.
        unsafe { close(fd) };
        match error {
            Some(error) if error.raw_os_error() != Some(EINTR) => return Err(error),
            _ => {}
        }
    }
}

/// As engines look a program up: a name with a slash as it is, any other along PATH.
fn find(name: &CStr) -> Result<CString, Error> {
    if name.to_bytes().contains(&b'/') {
        runnable(name)?;
        return Ok(name.to_owned());
    }
    // SAFETY: getenv gives null or a C string that nothing here changes.
    let path = unsafe {
        match getenv(c"PATH".as_ptr()) {
            value if value.is_null() => DEFAULT_PATH,
            value => CStr::from_ptr(value).to_bytes(),
        }
    };
    for folder in path.split(|byte| *byte == b':') {
        // What stands in the working directory is not found by its bare name.
        if folder.first() != Some(&b'/') || name.is_empty() {
            continue;
        }
        let mut candidate = folder.to_vec();
        candidate.push(b'/');
        candidate.extend_from_slice(name.to_bytes());
        if let Ok(candidate) = CString::new(candidate)
            && runnable(&candidate).is_ok()
        {
            return Ok(candidate);
        }
    }
    Err(Error::from_raw_os_error(ENOENT))
}

fn runnable(path: &CStr) -> Result<(), Error> {
    // SAFETY: a C string.
    if unsafe { access(path.as_ptr(), X_OK) } != 0 {
        return Err(Error::last_os_error());
    }
    let mut inside = path.to_bytes().to_vec();
    inside.extend_from_slice(b"/.");
    let inside = CString::new(inside).map_err(|_| Error::from_raw_os_error(ENOENT))?;
    // Only a folder has a `.`; one may be searched, which is what "executable" means for it.
    // SAFETY: a C string.
    if unsafe { access(inside.as_ptr(), F_OK) } == 0 {
        return Err(Error::from_raw_os_error(EISDIR));
    }
    Ok(())
}

fn status_of(error: &Error) -> c_int {
    match error.raw_os_error() {
        Some(ENOENT) => NOT_FOUND,
        _ => NOT_RUNNABLE,
    }
}

/// One line on standard error, as an engine would say it.
fn fail(status: c_int, what: &[u8], error: Option<&Error>) -> c_int {
    let mut line = b"exec: \"".to_vec();
    line.extend_from_slice(what);
    line.push(b'"');
    if let Some(error) = error {
        line.extend_from_slice(format!(": {error}").as_bytes());
    }
    line.push(b'\n');
    // SAFETY: a live buffer of that length. Nobody may be listening; the status says it too.
    unsafe { write(2, line.as_ptr().cast(), line.len()) };
    status
}
