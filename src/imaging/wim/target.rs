//! The folder that an image is applied to. Every name is created by its own folder's descriptor, one component at a
//! time and never through a symbolic link, so nothing can be written outside.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::tree::{Entry, Tree, name_bytes};
use crate::stdx::xattr;

/// Folder descriptors that are kept open.
const FOLDERS_OPEN_MAX: usize = 256;
const S_IFMT: u32 = 0o170_000;
/// Together more than the second that the kernel believes what ntfs-3g said.
const SETTLING_TRIES: usize = 20;
const SETTLING_PAUSE: Duration = Duration::from_millis(100);

pub struct Target<'a> {
    tree: &'a Tree,
    root: Arc<OwnedFd>,
    open: Mutex<HashMap<usize, Arc<OwnedFd>>>,
    /// Whether the file system is NTFS with ntfs-3g's attributes for what Linux has no names for.
    pub is_ntfs: bool,
    /// Whether an NTFS volume shows the stream `s` of the file `f` as the file `f:s`.
    pub streams_are_files: bool,
    /// Whether nothing was there.
    pub is_fresh: bool,
    /// Whether `A` and `a` are the same name there.
    pub folds_case: bool,
}

impl<'a> Target<'a> {
    /// Opens the folder, making it when there is none.
    pub fn open(path: &Path, tree: &'a Tree) -> io::Result<Target<'a>> {
        std::fs::create_dir_all(path)?;
        let root = File::open(path)?;
        let is_ntfs = is_ntfs_3g(path);
        let target = Target {
            tree,
            root: Arc::new(root.into()),
            open: Mutex::default(),
            is_ntfs,
            is_fresh: std::fs::read_dir(path)?.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")),
            streams_are_files: is_ntfs && streams_are_files(path)?,
            folds_case: folds_case(path)?,
        };
        Ok(target)
    }

    /// Opens the folder to look at what is in it; one that does not exist is an empty one.
    pub fn look(path: &Path, tree: &'a Tree) -> io::Result<Target<'a>> {
        let (root, is_fresh) = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (File::open("/dev/null")?, true),
            opened => (opened?, false),
        };
        Ok(Target {
            tree,
            root: Arc::new(root.into()),
            open: Mutex::default(),
            is_ntfs: is_ntfs_3g(path),
            is_fresh,
            streams_are_files: false,
            folds_case: false,
        })
    }

    /// Has all of the file system on the medium.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&*self.root)?)
    }

    /// Bytes that can be written there.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::fstatvfs(&*self.root)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// The descriptor of the folder at this place of the tree.
    fn folder(&self, place: usize) -> io::Result<Arc<OwnedFd>> {
        if place == 0 {
            return Ok(self.root.clone());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut way = Vec::new();
        let mut at = place;
        // Trees can be deeper than a stack.
        while at != 0 && !open.contains_key(&at) {
            way.push(at);
            at = self.tree.entries[at].parent;
        }
        let mut folder = if at == 0 { self.root.clone() } else { open[&at].clone() };
        for step in way.into_iter().rev() {
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            folder = Arc::new(openat(&*folder, name(&self.tree.entries[step]).as_os_str(), flags, Mode::empty())?);
            if open.len() >= FOLDERS_OPEN_MAX {
                open.clear();
            }
            open.insert(step, folder.clone());
        }
        Ok(folder)
    }

    /// A path to the entry through its folder's descriptor, for calls that take nothing else.
    fn proc_path(&self, place: usize) -> io::Result<(Arc<OwnedFd>, PathBuf)> {
        let entry = &self.tree.entries[place];
        let folder = self.folder(entry.parent)?;
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        path.push(if place == 0 { OsStr::new(".").to_owned() } else { name(entry) });
        Ok((folder, path))
    }

    /// Makes the folder; one that is there already is taken over.
    pub fn create_folder(&self, place: usize) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        let parent = self.folder(entry.parent)?;
        match mkdirat(&*parent, name(entry).as_os_str(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) => self.folder(place).map(drop),
            made => Ok(made?),
        }
    }

    /// Makes the folder that is to become a junction or another reparse point of NTFS. What has its name goes away; a folder
    /// with something in it stays, and loses its reparse data, without which it is the folder that it is.
    pub fn create_reparse_folder(&self, place: usize) -> io::Result<()> {
        let (folder, name) = self.at(place)?;
        settled(|| {
            let remove = |flag| unlinkat(&*folder, name.as_os_str(), flag);
            match remove(UnlinkatFlags::NoRemoveDir).or_else(|_| remove(UnlinkatFlags::RemoveDir)) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(Errno::ENOTEMPTY) => match self.remove_xattr(place, c"system.ntfs_reparse_data") {
                    Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
                    removed => removed,
                },
                Err(error) => Err(error.into()),
            }
        })?;
        settled(|| self.create_folder(place))
    }

    /// Makes an empty file, in place of what had its name, and opens it for writing.
    pub fn create_file(&self, place: usize) -> io::Result<File> {
        let entry = &self.tree.entries[place];
        let parent = self.folder(entry.parent)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = if entry.unix.is_some() { Mode::S_IRUSR | Mode::S_IWUSR } else { Mode::from_bits_truncate(0o644) };
        let create = || openat(&*parent, name(entry).as_os_str(), flags, mode);
        let file = replacing(&parent, entry, create)?;
        Ok(file.into())
    }

    /// Opens the file that is there for reading and writing, if it is one.
    pub fn open_file(&self, place: usize) -> io::Result<File> {
        self.open_with(place, OFlag::O_RDWR)
    }

    /// Opens the file that is there for reading, if it is one.
    pub fn look_file(&self, place: usize) -> io::Result<File> {
        self.open_with(place, OFlag::O_RDONLY)
    }

    fn open_with(&self, place: usize, access: OFlag) -> io::Result<File> {
        let entry = &self.tree.entries[place];
        let parent = self.folder(entry.parent)?;
        let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file: File = openat(&*parent, name(entry).as_os_str(), flags, Mode::empty())?.into();
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Device and number of the inode that has the entry's name.
    pub fn inode(&self, place: usize) -> io::Result<(u64, u64)> {
        let (folder, name) = self.at(place)?;
        let found = fstatat(&*folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok((found.st_dev, found.st_ino))
    }

    /// Makes an empty file, unless there is one that has no other name.
    pub fn create_empty_file(&self, place: usize) -> io::Result<File> {
        let is_empty = |file: &File| file.metadata().is_ok_and(|found| found.len() == 0 && found.nlink() == 1);
        match self.open_file(place) {
            Ok(file) if is_empty(&file) => Ok(file),
            _ => self.create_file(place),
        }
    }

    /// Opens a stream, empty, on a volume that shows streams as files.
    pub fn create_stream(&self, place: usize, stream: &[u8]) -> io::Result<File> {
        let (folder, mut name) = self.at(place)?;
        name.push(":");
        name.push(OsStr::from_bytes(stream));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // The stream of a file that had the name before may still be known.
        settled(|| Ok(openat(&*folder, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into()))
    }

    /// Makes a symbolic link, unless it is there.
    pub fn create_link(&self, place: usize, target: &[u8]) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        let parent = self.folder(entry.parent)?;
        if readlinkat(&*parent, name(entry).as_os_str()).is_ok_and(|found| found.as_bytes() == target) {
            return Ok(());
        }
        replacing(&parent, entry, || symlinkat(target, &*parent, name(entry).as_os_str()))
    }

    /// A device, pipe or socket, unless it is there.
    pub fn create_node(&self, place: usize, mode: u32, device: u32) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        let parent = self.folder(entry.parent)?;
        let device =
            nix::sys::stat::makedev(u64::from(device >> 8 & 0xfff), u64::from(device & 0xff | device >> 12 & 0xfff00));
        let kind = SFlag::from_bits_truncate(mode & S_IFMT);
        let found = fstatat(&*parent, name(entry).as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| found.st_mode & S_IFMT == kind.bits() && found.st_rdev == device) {
            return Ok(());
        }
        replacing(&parent, entry, || {
            mknodat(&*parent, name(entry).as_os_str(), kind, Mode::S_IRUSR | Mode::S_IWUSR, device)
        })
    }

    /// Another name for the inode of the entry at `first`, unless it is one.
    pub fn create_hard_link(&self, place: usize, first: usize) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        let (from, to) = (self.folder(self.tree.entries[first].parent)?, self.folder(entry.parent)?);
        let first_name = name(&self.tree.entries[first]);
        let stat = |folder: &OwnedFd, name: &OsStr| fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if let (Ok(a), Ok(b)) = (stat(&from, &first_name), stat(&to, &name(entry)))
            && (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
        {
            return Ok(());
        }
        replacing(&to, entry, || {
            linkat(&*from, first_name.as_os_str(), &*to, name(entry).as_os_str(), LinkatFlags::empty())
        })
    }

    pub fn remove_file(&self, place: usize) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        Ok(unlinkat(&*self.folder(entry.parent)?, name(entry).as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    /// The owner of an entry; by its file where that is open.
    pub fn set_owner(&self, place: usize, file: Option<&File>, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Some(file) = file {
            return Ok(fchown(file, uid, gid)?);
        }
        let (folder, name) = self.at(place)?;
        Ok(fchownat(&*folder, name.as_os_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Permissions of anything but a link.
    pub fn set_mode(&self, place: usize, file: Option<&File>, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        if let Some(file) = file {
            return Ok(fchmod(file, mode)?);
        }
        let (folder, name) = self.at(place)?;
        Ok(fchmodat(&*folder, name.as_os_str(), mode, FchmodatFlags::FollowSymlink)?)
    }

    pub fn set_times(&self, place: usize, file: Option<&File>) -> io::Result<()> {
        let entry = &self.tree.entries[place];
        let (accessed, written) = (time_spec(entry.accessed), time_spec(entry.written));
        if let Some(file) = file {
            return Ok(futimens(file, &accessed, &written)?);
        }
        let (folder, name) = self.at(place)?;
        Ok(utimensat(&*folder, name.as_os_str(), &accessed, &written, UtimensatFlags::NoFollowSymlink)?)
    }

    pub fn set_xattr(&self, place: usize, name: &[u8], value: &[u8]) -> io::Result<()> {
        let (_folder, path) = self.proc_path(place)?;
        let name = CString::new(name)?;
        match self.is_ntfs && self.tree.entries[place].reparse.is_some() {
            true => settled(|| xattr::set_at(&path, &name, value)),
            false => xattr::set_at(&path, &name, value),
        }
    }

    pub fn xattr(&self, place: usize, name: &CStr) -> io::Result<Vec<u8>> {
        let (_folder, path) = self.proc_path(place)?;
        xattr::value_at(&path, name)
    }

    pub fn xattr_names(&self, place: usize) -> io::Result<Vec<CString>> {
        let (_folder, path) = self.proc_path(place)?;
        xattr::names_at(&path)
    }

    pub fn remove_xattr(&self, place: usize, name: &CStr) -> io::Result<()> {
        let (_folder, path) = self.proc_path(place)?;
        xattr::remove_at(&path, name)
    }

    /// The folder and the name in it; the root is `.` in itself.
    fn at(&self, place: usize) -> io::Result<(Arc<OwnedFd>, std::ffi::OsString)> {
        let entry = &self.tree.entries[place];
        let name = if place == 0 { OsStr::new(".").to_owned() } else { name(entry) };
        Ok((self.folder(entry.parent)?, name))
    }
}

fn name(entry: &Entry) -> std::ffi::OsString {
    OsStr::from_bytes(&name_bytes(&entry.name)).to_owned()
}

/// Runs `create`; when the name is taken by anything but a folder, that is removed first.
fn replacing<T>(parent: &OwnedFd, entry: &Entry, create: impl Fn() -> nix::Result<T>) -> io::Result<T> {
    match create() {
        Err(Errno::EEXIST) => {
            unlinkat(parent, name(entry).as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            Ok(create()?)
        }
        created => Ok(created?),
    }
}

/// Runs `act` again while the kernel has an old view of the file, until ntfs-3g's answers are a second old: EIO where a
/// folder has just become a link or the other way round, ENOENT for a stream that went with its file.
fn settled<T>(act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..SETTLING_TRIES {
        match act() {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EIO | libc::ELOOP | libc::ENOTDIR | libc::ENOENT)) =>
            {
                std::thread::sleep(SETTLING_PAUSE);
            }
            done => return done,
        }
    }
    act()
}

/// 100 ns since 1601 to nanoseconds since 1970.
fn time_spec(time: u64) -> TimeSpec {
    let seconds = i64::try_from(time / 10_000_000).unwrap_or(i64::MAX) - 11_644_473_600;
    TimeSpec::new(seconds, (time % 10_000_000 * 100) as i64)
}

/// The kernel's own driver (ntfs3) has the attribute as well, but no streams, short names and reparse points.
fn is_ntfs_3g(path: &Path) -> bool {
    let is_fuse = statfs(path).is_ok_and(|found| found.filesystem_type() == FUSE_SUPER_MAGIC);
    is_fuse && xattr::value_at(path, c"system.ntfs_attrib_be").is_ok()
}

/// Tries it: file systems tell in no other way that holds for all of them.
fn folds_case(path: &Path) -> io::Result<bool> {
    let probe = path.join(format!(".remint-case-{}", std::process::id()));
    std::fs::create_dir(&probe)?;
    let folds = path.join(format!(".REMINT-CASE-{}", std::process::id())).symlink_metadata().is_ok();
    std::fs::remove_dir(&probe)?;
    Ok(folds)
}

/// Writes a stream and looks whether a file of that name came to be.
fn streams_are_files(path: &Path) -> io::Result<bool> {
    let probe = path.join(format!(".remint-stream-{}", std::process::id()));
    let stream = path.join(format!(".remint-stream-{}:s", std::process::id()));
    std::fs::write(&probe, "")?;
    let written = std::fs::write(&stream, "s").is_ok();
    std::fs::remove_file(&probe)?;
    // A stream went with its file.
    let is_file = std::fs::remove_file(&stream).is_ok();
    Ok(written && !is_file)
}

/// A file that is still open, for attributes without a second look-up.
pub fn set_open_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    xattr::set(file.as_fd(), &CString::new(name)?, value)
}
