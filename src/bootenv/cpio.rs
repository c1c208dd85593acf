//! Archives in the `newc` format, as the kernel unpacks them (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! An entry is a header of 110 bytes (magic `070701` and thirteen fields of eight hexadecimal digits), the name with a
//! closing NUL, padding to a multiple of 4, the content, padding to a multiple of 4. Everything that could differ from one
//! build to the next (inode, owner, time) is fixed, and entries are written in the order of their names.

use std::collections::BTreeMap;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// The entries of an archive by path, without a leading `/`. Parent folders are added by themselves.
#[derive(Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    /// Major and minor number of a device.
    device: (u32, u32),
    content: Vec<u8>,
}

impl Archive {
    pub fn folder(&mut self, path: &str) {
        self.add(path, DIRECTORY | 0o755, (0, 0), Vec::new());
    }

    /// A regular file with the permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, REGULAR | (mode & 0o7777), (0, 0), content);
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, SYMLINK | 0o777, (0, 0), target.as_bytes().to_vec());
    }

    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.add(path, CHARACTER_DEVICE | (mode & 0o7777), (major, minor), Vec::new());
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), content: Vec<u8>) {
        for (at, _) in path.match_indices('/') {
            let parent = || Entry { mode: DIRECTORY | 0o755, device: (0, 0), content: Vec::new() };
            self.entries.entry(path[..at].to_owned()).or_insert_with(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, device, content });
    }

    /// Writes all entries and the trailer.
    pub fn emit(&self, out: &mut impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1u32..).zip(&self.entries) {
            emit_entry(out, number, path, entry)?;
        }
        let trailer = Entry { mode: 0, device: (0, 0), content: Vec::new() };
        emit_entry(out, 0, "TRAILER!!!", &trailer)
    }
}

fn emit_entry(out: &mut impl Write, inode: u32, path: &str, entry: &Entry) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is too large for an initramfs"));
    let content_bytes = u32::try_from(entry.content.len()).map_err(too_large)?;
    let name_bytes = u32::try_from(path.len() + 1).map_err(too_large)?;
    let links = if entry.mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
    let (major, minor) = entry.device;
    // inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, name size, check
    let fields = [inode, entry.mode, 0, 0, links, 0, content_bytes, 0, 0, major, minor, name_bytes, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, 110 + path.len() + 1)?;
    out.write_all(&entry.content)?;
    pad(out, entry.content.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.file("sbin/tool", 0o755, b"#!tool".to_vec());
        archive.symlink("sbin/modprobe", "../init");
        archive.file("init", 0o755, vec![7; 4097]);
        archive.folder("proc");
        archive.character_device("dev/console", 0o600, 5, 1);
        archive
    }

    #[test]
    fn entries_are_sorted_aligned_and_always_the_same() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        sample().emit(&mut first).unwrap();
        sample().emit(&mut second).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.len() % 4, 0);
        assert!(first.starts_with(b"070701"));
        assert_eq!(&first[110..114], b"dev\0", "a folder stands before what lies in it");
    }

    #[test]
    fn cpio_reads_what_is_written() {
        let mut bytes = Vec::new();
        sample().emit(&mut bytes).unwrap();
        let child = Command::new("cpio").args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("skipped: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 7, "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,"), "{listing}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains("4097"), "{listing}");
        assert!(lines[5].ends_with("sbin/modprobe -> ../init"), "{listing}");
    }
}
