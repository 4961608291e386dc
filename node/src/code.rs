//! The code that only the start has run is given back.
//!
//! Linux maps a program's file in pieces, and where the file is cached in large ones, in large pieces: by the time a node is
//! ready, nearly all of its code counts as its memory, most of it for what a start does once. Mapped code is also what a
//! machine that runs short of memory parts with last. Once given back, a piece that is run again is mapped again, from the
//! cache while it is there and else from the file, as any code is.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};

/// Gives back all code of this process. What it runs comes back by itself.
pub(crate) fn give_back() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in code(&maps) {
        #[expect(unsafe_code, reason = "no safe call says what this one does")]
        // SAFETY: The range is a private mapping of a file, cannot be written to, and has no page that differs from the file's,
        // so every page that comes back is the one that went. Nobody unmaps code: no library is unloaded here.
        let given = unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) };
        if let Err(error) = given {
            tracing::debug!(%error, "code not given back");
        }
    }
}

/// The private mappings of files with code in them, start and length, that are as their files are.
fn code(maps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut open = None;
    for line in maps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [range, permissions, _, _, _, path, ..] if range.contains('-') => {
                let is_code = permissions == "r-xp" && path.starts_with('/');
                open = bounds(range).filter(|_| is_code);
            }
            // A mapping of no file.
            [range, _, _, _, _] if range.contains('-') => open = None,
            ["Anonymous:", "0", "kB"] => found.extend(open.take()),
            _ => {}
        }
    }
    found
}

fn bounds(range: &str) -> Option<(usize, usize)> {
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_is_as_its_file_is_goes() {
        let maps = "\
55a0-55b0 r--p 00000000 fe:00 1 /usr/bin/blosm
Size:                 64 kB
Anonymous:             0 kB
55b0-55f0 r-xp 00010000 fe:00 1 /usr/bin/blosm
Size:                256 kB
Rss:                 128 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
55f0-5600 rw-p 00050000 fe:00 1 /usr/bin/blosm
Anonymous:             0 kB
6000-6010 r-xp 00000000 fe:00 2 /usr/lib/with a breakpoint.so
Anonymous:             4 kB
6010-6020 rw-p 00000000 00:00 0
Anonymous:             0 kB
6020-6030 rwxp 00000000 fe:00 2 /usr/lib/written.so
Anonymous:             0 kB
7000-7010 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
8000-8040 r-xp 00000000 fe:00 3 /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(code(maps), [(0x55b0, 0x40), (0x8000, 0x40)]);
    }

    #[test]
    fn a_process_runs_on_after_it() {
        let own = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(!code(&own).is_empty());
        give_back();
        assert_eq!(code("nothing"), []);
    }
}
