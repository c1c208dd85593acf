//! What an image is applied to: a block device of this machine, or a file. Nothing else in `imaging` writes to a disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::imaging::chunk::Verified;
use crate::imaging::error::Error;
use crate::stdx::buffer::{ALIGNMENT, AlignedBuffer};
use crate::stdx::cache::is_cached;
use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::sparse;

/// Zeros are written in pieces of this size where the kernel cannot make them.
const ZERO_BYTES: u64 = 1 << 20;

/// Places of a file that are asked for to learn whether it is cached.
const CACHE_PLACES: u64 = 32;

/// A target that is open for writing, alone as far as the kernel can tell.
pub struct Target {
    path: PathBuf,
    file: File,
    /// The same, opened for direct I/O: whole aligned blocks are written past the page cache. `None` where the kernel or
    /// the file system has none.
    direct: Option<File>,
    /// A file system lets one direct write at a time into a file and has the others spin for their turn: here they sleep.
    turn: Mutex<()>,
    /// Whether reads go past the page cache too: from a device always, from a file when it is not cached anyway.
    reads_direct: bool,
    /// Bytes of a device; a file takes any size.
    device_bytes: Option<u64>,
    /// A file that was not there or empty: everything reads as zero.
    fresh: bool,
}

impl Target {
    /// A block device or a file, whichever `path` is; a file is made when there is none.
    pub fn open(path: &Path) -> Result<Target, Error> {
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Target::device(path),
            _ => Target::file(path),
        }
    }

    /// A disk. One that is mounted, or a part of which is, is refused by the kernel.
    pub fn device(path: &Path) -> Result<Target, Error> {
        let open = |flags| File::options().read(true).write(true).custom_flags(flags).open(path);
        let file = match open(libc::O_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Error::TargetInUse { target: path.display().to_string() });
            }
            other => other.map_err(Error::write(path.display()))?,
        };
        let direct = open(libc::O_DIRECT).ok();
        let file = FileAt::new(file).map_err(Error::read(path.display()))?;
        let device_bytes = Some(file.size());
        let (path, file) = (path.to_owned(), file.into_file());
        Ok(Target { path, file, direct, turn: Mutex::default(), reads_direct: true, device_bytes, fresh: false })
    }

    /// A regular file, made when there is none.
    pub fn file(path: &Path) -> Result<Target, Error> {
        let open = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(Error::write(path.display()))?;
        let bytes = file.metadata().map_err(Error::read(path.display()))?.len();
        let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        let (fresh, reads_direct) = (bytes == 0, !is_mostly_cached(&file, bytes));
        let (path, turn) = (path.to_owned(), Mutex::default());
        Ok(Target { path, file, direct, turn, reads_direct, device_bytes: None, fresh })
    }

    /// A target to be looked at and not written; a file that does not exist is an empty one.
    pub fn look(path: &Path) -> Result<Target, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open("/dev/null"),
            other => other,
        };
        let file = file.map_err(Error::read(path.display()))?;
        let metadata = file.metadata().map_err(Error::read(path.display()))?;
        let is_device = metadata.file_type().is_block_device();
        let file = FileAt::new(file).map_err(Error::read(path.display()))?;
        let (size, file) = (file.size(), file.into_file());
        let device_bytes = is_device.then_some(size);
        let (path, fresh) = (path.to_owned(), size == 0 && !is_device);
        Ok(Target { path, file, direct: None, turn: Mutex::default(), reads_direct: false, device_bytes, fresh })
    }

    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Bytes of a device; `None` for a file, which takes any size.
    pub fn device_bytes(&self) -> Option<u64> {
        self.device_bytes
    }

    /// Bytes that can be read.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        match self.device_bytes {
            Some(bytes) => Ok(bytes),
            None => self.file.metadata().map(|found| found.len()).map_err(Error::read(self.path.display())),
        }
    }

    /// Whether it is known without looking that everything reads as zero.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The ranges below `end` that may hold something else than zero, as far as is known without reading.
    pub fn data_ranges(&self, end: u64) -> Result<Vec<Range<u64>>, Error> {
        let size = self.bytes()?;
        match self.device_bytes {
            Some(_) => Ok(std::iter::once(0..end).collect()),
            None => sparse::data_ranges(&self.file, size.min(end)).map_err(Error::read(self.path.display())),
        }
    }

    /// Gives a file its size.
    pub(super) fn resize(&self, size: u64) -> Result<(), Error> {
        match self.device_bytes {
            Some(_) => Ok(()),
            None => self.file.set_len(size).map_err(Error::write(self.path.display())),
        }
    }

    /// Reads `range` and hands it over. What a file is too short for reads as zero.
    pub(super) fn read<'a>(&self, range: Range<u64>, buffer: &'a mut AlignedBuffer) -> Result<&'a [u8], Error> {
        let start = range.start - range.start % ALIGNMENT as u64;
        let bytes = self.bytes()?;
        let end = range.end.next_multiple_of(ALIGNMENT as u64).min(self.device_bytes.unwrap_or(u64::MAX));
        let (skip, len) = ((range.start - start) as usize, (range.end - range.start) as usize);
        let room = &mut buffer.as_mut_slice()[..(end - start) as usize];
        let whole_blocks = end.is_multiple_of(ALIGNMENT as u64) && end <= bytes;
        let read = match self.direct.as_ref().filter(|_| self.reads_direct && whole_blocks) {
            Some(direct) => match direct.read_exact_at(room, start) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => read_zero_filled(&self.file, room, start),
                other => other,
            },
            None => read_zero_filled(&self.file, room, start),
        };
        read.map_err(|source| self.read_error(range.start, source))?;
        Ok(&buffer.as_slice()[skip..skip + len])
    }

    /// Writes proven bytes to their place.
    pub(super) fn write(&self, verified: &Verified) -> Result<(), Error> {
        self.write_bytes(verified.as_bytes(), verified.offset())
    }

    /// Makes `range` read as zero.
    pub(super) fn zero(&self, range: &Range<u64>) -> Result<(), Error> {
        if self.device_bytes.is_none() {
            match sparse::punch(&self.file, range) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.write_error(range.start, error)),
            }
        }
        let zeros = AlignedBuffer::new((range.end - range.start).min(ZERO_BYTES) as usize + ALIGNMENT);
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZERO_BYTES - at % ALIGNMENT as u64);
            let skip = (at % ALIGNMENT as u64) as usize;
            self.write_bytes(&zeros.as_slice()[skip..skip + len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Whole aligned blocks directly, the ends through the page cache: a block at the edge of two writes is only ever
    /// touched there, so that neither undoes the other.
    fn write_bytes(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let Some(direct) = &self.direct else { return self.write_buffered(bytes, offset) };
        let block = ALIGNMENT as u64;
        let end = offset + bytes.len() as u64;
        let (inner, inner_end) = (offset.next_multiple_of(block), end - end % block);
        if inner >= inner_end {
            return self.write_buffered(bytes, offset);
        }
        let (head, rest) = bytes.split_at((inner - offset) as usize);
        let (middle, tail) = rest.split_at((inner_end - inner) as usize);
        let turn = self.device_bytes.is_none().then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        let written = direct.write_all_at(middle, inner);
        drop(turn);
        match written {
            // Some file systems grant O_DIRECT and then want more of it than blocks of 4096 bytes.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.write_buffered(middle, inner)?,
            other => other.map_err(|source| self.write_error(inner, source))?,
        }
        self.write_buffered(head, offset)?;
        self.write_buffered(tail, inner_end)
    }

    fn write_buffered(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.write_error(offset, source))
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::write(self.path.display()))
    }

    /// Has what is read next come from the medium, as far as the kernel grants it.
    pub(super) fn forget_cache(&self) {
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // Advice that is not taken makes the sample weaker and nothing wrong.
        let _ = nix::fcntl::posix_fadvise(&self.file, 0, 0, advice);
    }

    fn read_error(&self, offset: u64, source: io::Error) -> Error {
        Error::Read { what: format!("{} at byte {offset}", self.path.display()), source }
    }

    fn write_error(&self, offset: u64, source: io::Error) -> Error {
        Error::Write { what: format!("{} at byte {offset}", self.path.display()), source }
    }
}

/// Asks for some places of a file of `bytes`; reading from memory is cheaper than from the disk, and copying needlessly is not.
fn is_mostly_cached(file: &File, bytes: u64) -> bool {
    let places = (0..CACHE_PLACES).map(|place| bytes / CACHE_PLACES * place + bytes / CACHE_PLACES / 2);
    places.filter(|place| is_cached(file, *place)).count() as u64 * 2 > CACHE_PLACES
}

fn read_zero_filled(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[done..].fill(0);
    Ok(())
}
