//! Where a container's writable layer lies, read from `/proc/PID/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Why a root has no upper directory that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoUpper {
    #[error("its root is not in the list of its mounts")]
    NoRoot,
    #[error("its root is {0}, not an overlay")]
    NotOverlay(String),
    #[error("its root is read-only")]
    ReadOnly,
    #[error("its root does not say where its upper directory is")]
    Unnamed,
    #[error("its overlay is mounted with {0}, which hides what changed")]
    Option(String),
}

/// The upper directory of the mount that is the root.
pub(super) fn upper_directory(mountinfo: &[u8]) -> Result<PathBuf, NoUpper> {
    // The last one mounted at `/` is the one on top.
    let root = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(Mount::parse)
        .rfind(|mount| mount.point == b"/")
        .ok_or(NoUpper::NoRoot)?;
    if root.kind != b"overlay" {
        let kind = String::from_utf8_lossy(root.kind).into_owned();
        return Err(NoUpper::NotOverlay(kind));
    }
    let mut upper = None;
    for option in root.options.split(|byte| *byte == b',') {
        match option {
            b"redirect_dir=on" | b"metacopy=on" => {
                return Err(NoUpper::Option(String::from_utf8_lossy(option).into_owned()));
            }
            _ => {
                if let Some(path) = option.strip_prefix(b"upperdir=") {
                    upper = Some(unescape(path));
                }
            }
        }
    }
    match upper {
        None => Err(NoUpper::ReadOnly),
        // An engine that was short of room for options has mounted from its own directory.
        Some(path) if path.first() != Some(&b'/') => Err(NoUpper::Unnamed),
        Some(path) => Ok(OsString::from_vec(path).into()),
    }
}

/// A line of mountinfo, as far as it is needed.
struct Mount<'a> {
    point: Vec<u8>,
    kind: &'a [u8],
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /root /point rw,noatime master:1 ... - type source options`
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let point = unescape(words.nth(4)?);
        words.find(|word| *word == b"-")?;
        let kind = words.next()?;
        let options = words.nth(1)?;
        Some(Self { point, kind, options })
    }
}

/// Kernels write what would break a line as `\` and three octal digits.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "1 2 0:45 / / rw,relatime - overlay overlay rw,lowerdir=/l/A:/l/B,\
                        upperdir=/var/lib/docker/overlay2/ab/diff,workdir=/var/lib/docker/overlay2/ab/work";
    const PROC: &str = "3 1 0:50 / /proc rw,nosuid master:7 shared:1 - proc proc rw";

    fn upper(lines: &[&str]) -> Result<String, NoUpper> {
        upper_directory(lines.join("\n").as_bytes()).map(|path| path.display().to_string())
    }

    #[test]
    fn the_upper_directory_is_found() {
        assert_eq!(upper(&[ROOT, PROC]).unwrap(), "/var/lib/docker/overlay2/ab/diff");
        let over = ROOT.replace("/ab/", "/cd/");
        assert_eq!(
            upper(&[ROOT, PROC, &over]).unwrap(),
            "/var/lib/docker/overlay2/cd/diff"
        );
        let odd = ROOT.replace("/ab/", r"/a\040b\054c\134d\011/");
        assert_eq!(
            upper(&[&odd]).unwrap(),
            "/var/lib/docker/overlay2/a b,c\\d\t/diff"
        );
    }

    #[test]
    fn a_root_that_cannot_be_read_says_why() {
        assert_eq!(upper(&[]), Err(NoUpper::NoRoot));
        assert_eq!(upper(&[PROC, "garbage", ""]), Err(NoUpper::NoRoot));
        let kind = ROOT.replace("overlay overlay", "btrfs /dev/sda");
        assert_eq!(upper(&[&kind]), Err(NoUpper::NotOverlay("btrfs".to_owned())));
        for option in ["redirect_dir=on", "metacopy=on"] {
            let with = format!("{ROOT},{option}");
            assert_eq!(upper(&[&with]), Err(NoUpper::Option(option.to_owned())));
        }
        assert!(upper(&[&format!("{ROOT},redirect_dir=nofollow,metacopy=off")]).is_ok());
        let read_only = ROOT.replace("upperdir", "lowerdir+");
        assert_eq!(upper(&[&read_only]), Err(NoUpper::ReadOnly));
        let relative = ROOT.replace("upperdir=/var/lib/docker/overlay2/", "upperdir=");
        assert_eq!(upper(&[&relative]), Err(NoUpper::Unnamed));
    }

    #[test]
    fn half_an_escape_is_text() {
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"\\040"), br"\ ");
        assert_eq!(unescape(br"\400"), br"\400");
    }
}
