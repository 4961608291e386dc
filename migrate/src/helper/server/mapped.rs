//! Which files a container's processes have mapped so that a store into memory changes them.

use std::collections::BTreeSet;

use super::mount::unescape;
use crate::docker::exit::processes_of;

/// What `/proc/PID/maps` puts behind the name of a file that was deleted, or that has such a name.
const DELETED: &[u8] = b" (deleted)";

/// Container paths without their leading slash.
pub(super) fn mapped_files(container: &str) -> BTreeSet<Vec<u8>> {
    let mut files = BTreeSet::new();
    for pid in processes_of(container) {
        // One that has ended meanwhile maps nothing.
        if let Ok(maps) = std::fs::read(format!("/proc/{pid}/maps")) {
            add_shared(&maps, &mut files);
        }
    }
    files
}

/// Each shared mapping of a file counts: one that is read-only now may be made writable without a trace, so a file too
/// many is looked at rather than one too few.
fn add_shared(maps: &[u8], files: &mut BTreeSet<Vec<u8>>) {
    for line in maps.split(|byte| *byte == b'\n') {
        let Some((permissions, path)) = permissions_and_path(line) else {
            continue;
        };
        let ([_, _, _, b's'], [b'/', path @ ..]) = (permissions, path) else {
            continue;
        };
        // Only line feeds are escaped here, not the backslash: either reading may be the name.
        for path in [Some(path), path.strip_suffix(DELETED)].into_iter().flatten() {
            files.insert(path.to_vec());
            files.insert(unescape(path));
        }
    }
}

/// `7f00-7f01 rw-s 00000000 00:2d 1234      /path with spaces`
fn permissions_and_path(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = line;
    let mut permissions = None;
    for column in 0..5 {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        if column == 1 {
            permissions = rest.get(..end);
        }
        rest = rest.get(end..)?.trim_ascii_start();
    }
    Some((permissions?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_of_files_are_found() {
        let maps = b"7f0000000000-7f0000001000 rw-s 00000000 00:2d 12                         /data/a b\n\
            7f0000001000-7f0000002000 rw-p 00000000 00:2d 13                         /lib/private\n\
            7f0000002000-7f0000003000 r--s 00000000 00:2d 14                         /data/may become writable\n\
            7f0000003000-7f0000004000 rw-s 00000000 00:01 15                         /gone (deleted)\n\
            7f0000004000-7f0000005000 rw-s 00000000 00:2d 16                         /line\\012feed\n\
            7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0                          [stack]\n\
            7ffd00001000-7ffd00002000 rw-s 00000000 00:00 0 \n\
            nonsense\n";
        let mut files = BTreeSet::new();
        add_shared(maps, &mut files);
        let expected: [&[u8]; 6] = [
            b"data/a b",
            b"data/may become writable",
            b"gone",
            b"gone (deleted)",
            b"line\nfeed",
            b"line\\012feed",
        ];
        assert_eq!(files, expected.map(<[u8]>::to_vec).into());
    }
}
