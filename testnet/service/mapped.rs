//! Numbers in a file that is only ever stored to through a mapping, and never flushed: what a memory-mapped database
//! does between its checkpoints. Such a store moves no time stamp of the file once its page is dirty.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Of the file and the mapping.
const BYTES: usize = 1024 * 1024;
/// The first word counts the others.
const SLOTS: usize = BYTES / 8 - 1;
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
const MAP_SHARED: i32 = 1;

unsafe extern "C" {
    fn mmap(at: *mut c_void, bytes: usize, prot: i32, flags: i32, file: i32, offset: i64) -> *mut c_void;
}

/// The mapping; it lasts as long as the program.
pub(super) struct Mapped(Mutex<Words>);

struct Words(*mut u64);

// SAFETY: the mapping is the process's, not a thread's, and the lock around it lets one thread in at a time.
unsafe impl Send for Words {}

impl Mapped {
    pub(super) fn open(dir: &Path) -> io::Result<Mapped> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(dir.join("mapped"))?;
        file.set_len(BYTES as u64)?;
        // SAFETY: a new mapping, at a place that the kernel chooses, of a file that is as long as it.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                BYTES,
                PROT_READ | PROT_WRITE,
                MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapped(Mutex::new(Words(at.cast()))))
    }

    /// Stores one more number.
    pub(super) fn push(&self, number: u64) -> io::Result<()> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = words.get(0) as usize;
        if count >= SLOTS {
            return Err(io::Error::other("the mapped file is full"));
        }
        words.set(1 + count, number);
        words.set(0, count as u64 + 1);
        Ok(())
    }

    /// All numbers in the order in which they came.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = (words.get(0) as usize).min(SLOTS);
        (1..=count).map(|index| words.get(index)).collect()
    }
}

impl Words {
    fn get(&self, index: usize) -> u64 {
        assert!(index <= SLOTS);
        // SAFETY: inside the mapping, aligned, and nothing else of this process touches it meanwhile.
        unsafe { self.0.add(index).read_volatile() }
    }

    fn set(&self, index: usize, value: u64) {
        assert!(index <= SLOTS);
        // SAFETY: as for `get`.
        unsafe { self.0.add(index).write_volatile(value) }
    }
}
