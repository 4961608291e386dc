//! Random histories of a filesystem, seen from inside of a container.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b"h\xff\xfe",
    b"new\nline",
    b"x y",
];

/// A small generator, so that a seed gives the same history everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.roll(from.len() as u64) as usize)
        }
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let word = self.roll(u64::MAX).to_le_bytes();
        (0..len)
            .map(|at| word[(at % 7) as usize] ^ (at / 251) as u8)
            .collect()
    }
}

/// Makes what both sides have below their layers.
pub(crate) fn fill_lower(root: &Path, dice: &mut Dice) {
    for step in 0..40 {
        // Only what makes things; some of it will not succeed, as in a history.
        let _ = match step % 4 {
            0 => make_folder(root, dice),
            1 | 2 => write(root, dice),
            _ => match dice.roll(3) {
                0 => link(root, dice),
                1 => make_symlink(root, dice),
                _ => set_xattr(root, dice),
            },
        };
    }
}

/// One random step. What cannot be done, because something is there or is not, is left out.
pub(crate) fn step(root: &Path, dice: &mut Dice, stores: Option<&mut Stores>) -> io::Result<()> {
    match dice.roll(27) {
        0..=3 => write(root, dice),
        4 | 5 => append(root, dice),
        6 => truncate(root, dice),
        7..=9 => rename(root, dice),
        10 | 11 => delete(root, dice),
        12 => file_for_folder(root, dice),
        13 => folder_for_file(root, dice),
        14 => empty_folder_again(root, dice),
        15 | 16 => link(root, dice),
        17 => set_xattr(root, dice),
        18 => set_owner(root, dice),
        19 => set_times(root, dice),
        20 => sparse(root, dice),
        21 => make_symlink(root, dice),
        22 => make_node(root, dice),
        23 => overwrite_block(root, dice),
        24 => make_folder(root, dice),
        _ => match stores {
            Some(stores) => stores.store(root, dice),
            None => overwrite_block(root, dice),
        },
    }
}

/// Everything below `root`, sorted, so that a seed picks the same each time.
fn all(root: &Path, wanted: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            if meta.is_dir() {
                todo.push(entry.path());
            }
            if wanted(&meta) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn folder(root: &Path, dice: &mut Dice) -> PathBuf {
    let mut folders = all(root, fs::Metadata::is_dir);
    folders.push(root.to_owned());
    dice.pick(&folders).unwrap().clone()
}

fn name(root: &Path, dice: &mut Dice) -> PathBuf {
    folder(root, dice).join(OsStr::from_bytes(dice.pick(&NAMES).unwrap()))
}

fn file(root: &Path, dice: &mut Dice) -> io::Result<PathBuf> {
    let files = all(root, fs::Metadata::is_file);
    dice.pick(&files).cloned().ok_or(io::ErrorKind::NotFound.into())
}

fn anything(root: &Path, dice: &mut Dice) -> io::Result<PathBuf> {
    dice.pick(&all(root, |_| true))
        .cloned()
        .ok_or(io::ErrorKind::NotFound.into())
}

fn len(dice: &mut Dice) -> u64 {
    match dice.roll(12) {
        0 => 0,
        1 => 65_536 + dice.roll(3) - 1,
        2 => 65_536 + dice.roll(300_000),
        3 => dice.roll(65_536),
        _ => dice.roll(3_000),
    }
}

fn write(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = if dice.roll(2) == 0 {
        name(root, dice)
    } else {
        file(root, dice)?
    };
    let len = len(dice);
    if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Ok(());
    }
    fs::write(path, dice.bytes(len))
}

fn append(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(file(root, dice)?)?;
    let len = len(dice);
    file.write_all(&dice.bytes(len))
}

fn truncate(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(file(root, dice)?)?;
    let size = file.metadata()?.len();
    file.set_len(dice.roll(size + 5000))
}

fn overwrite_block(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(file(root, dice)?)?;
    let size = file.metadata()?.len();
    let zeros = dice.roll(4) == 0;
    let bytes = if zeros { vec![0; 8192] } else { dice.bytes(1) };
    file.write_all_at(&bytes, dice.roll(size + 1))
}

fn sparse(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = if dice.roll(2) == 0 {
        name(root, dice)
    } else {
        file(root, dice)?
    };
    if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Ok(());
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let most = if dice.roll(30) == 0 {
        200_000_000
    } else {
        2_000_000
    };
    let at = dice.roll(most);
    file.write_all_at(&dice.bytes(100), at)
}

fn rename(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let (from, to) = (anything(root, dice)?, name(root, dice));
    if dice.roll(4) == 0 {
        let to = anything(root, dice)?;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        return Ok(rustix::fs::renameat_with(CWD, &from, CWD, &to, flags)?);
    }
    fs::rename(from, to)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn delete(root: &Path, dice: &mut Dice) -> io::Result<()> {
    remove(&anything(root, dice)?)
}

fn file_for_folder(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let folder = folder(root, dice);
    if folder == root {
        return Ok(());
    }
    fs::remove_dir_all(&folder)?;
    fs::write(folder, dice.bytes(10))
}

fn folder_for_file(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let file = file(root, dice)?;
    fs::remove_file(&file)?;
    fs::create_dir(&file)?;
    fs::write(file.join("a"), dice.bytes(20))
}

fn empty_folder_again(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let folder = folder(root, dice);
    if folder == root {
        return Ok(());
    }
    fs::remove_dir_all(&folder)?;
    fs::create_dir(folder)
}

fn make_folder(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = name(root, dice);
    if path.components().count() > root.components().count() + 5 {
        return Ok(());
    }
    fs::create_dir(path)
}

fn link(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let from = dice
        .pick(&all(root, |meta| !meta.is_dir()))
        .cloned()
        .ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::fs::linkat(
        CWD,
        &from,
        CWD,
        name(root, dice),
        AtFlags::empty(),
    )?)
}

fn make_symlink(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let target: &[u8] = dice
        .pick(&[&b"../a"[..], b"/etc/passwd", b"b\xff", b"."])
        .unwrap();
    symlink(OsStr::from_bytes(target), name(root, dice))
}

fn make_node(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let kind = if dice.roll(2) == 0 {
        FileType::Fifo
    } else {
        FileType::Socket
    };
    Ok(rustix::fs::mknodat(
        CWD,
        name(root, dice),
        kind,
        Mode::from_raw_mode(0o640),
        0,
    )?)
}

fn set_xattr(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = dice
        .pick(&all(root, |meta| meta.is_file() || meta.is_dir()))
        .cloned()
        .ok_or(io::ErrorKind::NotFound)?;
    let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&path, name, value, XattrFlags::empty());
    match dice.roll(5) {
        0 => set("user.one", &dice.bytes(20))?,
        1 => set("user.two", b"")?,
        2 if path.is_file() => set(
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )?,
        3 => set("system.posix_acl_access", &acl(dice))?,
        4 if path.is_dir() => set("system.posix_acl_default", &acl(dice))?,
        _ => rustix::fs::removexattr(&path, "user.one")?,
    }
    Ok(())
}

/// An access control list with one named user.
fn acl(dice: &mut Dice) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    let named = (0x02u16, dice.roll(8) as u16, 1000u32);
    for (tag, perm, id) in [
        (0x01, 6, u32::MAX),
        named,
        (0x04, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        acl.extend(
            tag.to_le_bytes()
                .into_iter()
                .chain(perm.to_le_bytes())
                .chain(id.to_le_bytes()),
        );
    }
    acl
}

fn set_owner(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = anything(root, dice)?;
    if dice.roll(2) == 0 {
        return std::os::unix::fs::lchown(&path, Some(dice.roll(3) as u32 * 1000), Some(dice.roll(3) as u32));
    }
    if path.is_symlink() {
        return Ok(());
    }
    let bits = *dice
        .pick(&[0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o600])
        .unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(bits))
}

fn set_times(root: &Path, dice: &mut Dice) -> io::Result<()> {
    let path = anything(root, dice)?;
    let time = Timespec {
        tv_sec: dice.roll(2_000_000_000) as i64,
        tv_nsec: dice.roll(1_000_000_000) as i64,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        &path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// The program that stores through mappings.
pub(crate) struct Stores {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Stores {
    pub(crate) fn new(program: &Path) -> Stores {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        Stores { child, to, from }
    }

    pub(crate) fn store(&mut self, root: &Path, dice: &mut Dice) -> io::Result<()> {
        let path = file(root, dice)?;
        let size = fs::metadata(&path)?.len();
        self.store_at(&path, dice.roll(size.max(1)), dice.roll(256) as u8)
    }

    pub(crate) fn store_at(&mut self, path: &Path, offset: u64, value: u8) -> io::Result<()> {
        let hex: String = path
            .as_os_str()
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        writeln!(self.to, "{offset} {value} {hex}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        Ok(())
    }

    /// Paths below `root` that it has mapped writable, as the kernel lists them.
    pub(crate) fn mapped(&self, root: &Path) -> BTreeSet<Vec<u8>> {
        let maps = fs::read(format!("/proc/{}/maps", self.child.id())).unwrap();
        let mut prefix = root.as_os_str().as_bytes().to_vec();
        prefix.push(b'/');
        maps.split(|byte| *byte == b'\n')
            .filter(|line| line.windows(6).any(|word| word == b" rw-s "))
            .filter_map(|line| {
                let at = line.iter().position(|byte| *byte == b'/')?;
                let path = String::from_utf8_lossy(&line[at..])
                    .replace("\\012", "\n")
                    .into_bytes();
                // A name that is not UTF-8 must not be replaced.
                let path = if line.contains(&0xff) {
                    line[at..].to_vec()
                } else {
                    path
                };
                path.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec)
            })
            .collect()
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the program into `dir`.
pub(crate) fn build_stores(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layer/mmap_store.rs");
    let program = dir.join("mmap-store");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let status = Command::new(rustc)
        .args(["--edition", "2024", "-O", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success());
    program
}

/// Opens a directory for `apply`.
pub(crate) fn open(dir: &Path) -> File {
    File::open(dir).unwrap()
}
