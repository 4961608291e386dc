//! Stores single bytes into files through shared mappings that it keeps, and never syncs them.
//!
//! Reads `OFFSET VALUE PATH-IN-HEX` lines, answers each with `ok` or `no`.

use std::ffi::{OsString, c_int, c_long, c_void};
use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

unsafe extern "C" {
    fn mmap(at: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
}

fn store(line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let offset: usize = words.next()?.parse().ok()?;
    let value: u8 = words.next()?.parse().ok()?;
    let hex = words.next()?;
    let path = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let file = OpenOptions::new().read(true).write(true).open(OsString::from_vec(path)).ok()?;
    let len = file.metadata().ok()?.len() as usize;
    if offset >= len {
        return None;
    }
    let (read_write, shared) = (3, 1);
    let at = unsafe { mmap(std::ptr::null_mut(), len, read_write, shared, file.as_raw_fd(), 0) };
    if at as isize == -1 {
        return None;
    }
    unsafe { at.cast::<u8>().add(offset).write_volatile(value) };
    Some(())
}

fn main() {
    for line in std::io::stdin().lock().lines() {
        let answer = if store(&line.unwrap()).is_some() { "ok" } else { "no" };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}
