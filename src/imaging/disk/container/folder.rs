//! Folders that hold a disk: Clonezilla's (`disk`, `parts`, `sda-gpt-1st`, `sda1.ext4-ptcl-img.zst.aa`) and FOG's
//! (`d1.mbr`, `d1p1.img`). The table and every partition are put together in a sparse temporary file.

use super::partclone;
use super::{Error, Format, Opened};
use crate::imaging::disk::table::{self, Partition, Table};
use crate::stdx::bytes::Fields;
use crate::stdx::file;
use crate::stdx::io::FileAt;
use crate::stdx::sparse::data_ranges;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// Files of a folder that are looked at: 10,000 pieces of 2 GB.
const FILES_MAX: usize = 10_000;
/// A saved table with boot loader: the first MiB, generously.
const TABLE_BYTES_MAX: u64 = 16 << 20;

pub fn open(folder: &Path, scratch: &Path) -> Result<Opened, Error> {
    let there = |name: &str| folder.join(name).is_file();
    if there("d1.mbr") {
        return Saved { folder, format: Format::Fog, disk: "d1".to_owned() }.assemble(scratch);
    }
    if !there("disk") || !there("parts") {
        return Err(Error::Refused {
            format: "folder",
            what: "it is neither a saved disk of Clonezilla nor one of FOG".to_owned(),
            way_out: "name the folder that holds `disk` and `parts` (Clonezilla) or `d1.mbr` (FOG)",
        });
    }
    let saved = Saved { folder, format: Format::Clonezilla, disk: String::new() };
    let disks = saved.text("disk")?;
    match disks.split_whitespace().collect::<Vec<_>>()[..] {
        [disk] if !disk.contains('/') => Saved { disk: disk.to_owned(), ..saved }.assemble(scratch),
        _ => Err(saved.refused("it holds several disks", "save the disks one by one")),
    }
}

struct Saved<'a> {
    folder: &'a Path,
    format: Format,
    /// `sda`, or FOG's `d1`.
    disk: String,
}

impl Saved<'_> {
    fn assemble(&self, scratch: &Path) -> Result<Opened, Error> {
        let unreadable = Error::unreadable(self.format);
        let target = file::unnamed(scratch).map_err(&unreadable)?;
        self.write_table(&target)?;
        let disk = FileAt::new(target).map_err(&unreadable)?;
        let found = table::read(&disk, Some(SECTOR as u32)).map_err(|error| self.damaged(&error.to_string()))?;
        let found = found.ok_or_else(|| self.damaged("its partition table is damaged"))?;
        if matches!(&found, Table::Mbr(mbr) if !mbr.links().is_empty() || mbr.has_extended()) {
            return Err(self.refused("it has logical partitions", "restore it to a disk and capture that"));
        }
        let mut warnings = Vec::new();
        for partition in found.partitions() {
            self.add(&partition, disk.file(), &mut warnings)?;
        }
        let end = found.partitions().iter().map(Partition::end).max().unwrap_or(0);
        let target = disk.file().try_clone().map_err(&unreadable)?;
        let bytes = target.metadata().map_err(&unreadable)?.len().max(end);
        target.set_len(bytes).map_err(&unreadable)?;
        let stored = Some(data_ranges(&target, bytes).map_err(&unreadable)?);
        let content = FileAt::new(target).map_err(&unreadable)?;
        Ok(Opened { format: self.format, content: Box::new(content), stored, warnings })
    }

    fn write_table(&self, target: &File) -> Result<(), Error> {
        let write = |bytes: &[u8], at: u64| target.write_all_at(bytes, at).map_err(Error::unreadable(self.format));
        let name = |suffix: &str| format!("{}{suffix}", self.disk);
        if self.format == Format::Fog {
            let saved = self.bytes(&name(".mbr"))?;
            return match is_sgdisk_backup(&saved) {
                true => self.write_sgdisk_backup(&saved, write),
                false => write(&saved, 0),
            };
        }
        let Ok(front) = self.bytes(&name("-gpt-1st")) else {
            write(&self.bytes(&name("-mbr"))?, 0)?;
            let hidden = self.bytes(&name("-hidden-data-after-mbr"));
            return hidden.map_or(Ok(()), |bytes| write(&bytes, SECTOR));
        };
        write(&front, 0)?;
        let last = self.backup_sector(Fields(front.get(SECTOR as usize..).unwrap_or_default()))?;
        let back = self.bytes(&name("-gpt-2nd"))?;
        write(&back, ((last + 1) * SECTOR).saturating_sub(back.len() as u64))
    }

    /// `sgdisk --backup`: protective MBR, primary header, backup header, entries.
    fn write_sgdisk_backup(&self, saved: &[u8], write: impl Fn(&[u8], u64) -> Result<(), Error>) -> Result<(), Error> {
        let (primary, backup) = (Fields(&saved[512..1024]), Fields(&saved[1024..1536]));
        let last = self.backup_sector(primary)?;
        let entries_at = backup.le64(72).min(last).saturating_mul(SECTOR);
        write(&saved[..1024], 0)?;
        write(&saved[1536..], 2 * SECTOR)?;
        write(&saved[1536..], entries_at)?;
        write(backup.0, last * SECTOR)
    }

    /// The last sector of the disk as a primary header tells it; a lie here would only make a sparse file large.
    fn backup_sector(&self, primary: Fields<'_>) -> Result<u64, Error> {
        let last = primary.le64(32);
        let fits = (64..1 << 40).contains(&last);
        fits.then_some(last).ok_or_else(|| self.damaged("its GPT names no sound size"))
    }

    /// Unpacks the files of one partition to its place.
    fn add(&self, partition: &Partition, target: &File, warnings: &mut Vec<String>) -> Result<(), Error> {
        let name = self.partition_name(partition.number);
        let pieces = self.pieces(&name)?;
        if pieces.is_empty() {
            warnings.push(format!("{name} was not saved: it stays empty"));
            return Ok(());
        }
        let stream = partclone::decompressed(Pieces { rest: pieces.into_iter(), open: None })?;
        let mut stream = io::BufReader::new(stream);
        let is_image =
            io::BufRead::fill_buf(&mut stream).map_err(Error::unreadable(self.format))?.starts_with(b"partclone-image");
        if is_image {
            let unpacked = partclone::unpack(stream, target, partition.start)?;
            if unpacked.bytes > partition.bytes {
                return Err(self.damaged(&format!("{name} is larger than its partition")));
            }
            if !unpacked.checked {
                warnings.push(format!("{name}: {}", partclone::unchecked()));
            }
            return Ok(());
        }
        self.copy_plain(stream, partition, target)
    }

    /// A partition that was saved byte by byte. Zeros are left as holes.
    fn copy_plain(&self, mut stream: impl Read, partition: &Partition, target: &File) -> Result<(), Error> {
        let unreadable = Error::unreadable(self.format);
        let (mut at, mut piece) = (0, vec![0; 1 << 20]);
        loop {
            let read = stream.read(&mut piece).map_err(&unreadable)?;
            if read == 0 {
                return Ok(());
            }
            if at + read as u64 > partition.bytes {
                return Err(self.damaged("a partition is larger than its table says"));
            }
            if piece[..read].iter().any(|byte| *byte != 0) {
                target.write_all_at(&piece[..read], partition.start + at).map_err(&unreadable)?;
            }
            at += read as u64;
        }
    }

    /// `sda` and 1 are `sda1`, `nvme0n1` and 1 are `nvme0n1p1`, FOG's `d1` and 1 are `d1p1`.
    fn partition_name(&self, number: u32) -> String {
        let between = if self.disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
        format!("{}{between}{number}", self.disk)
    }

    /// The files of a partition in order: `sda1.ext4-ptcl-img.gz.aa`, `.ab`, or `d1p1.img`, `d1p1.img.001`.
    fn pieces(&self, partition: &str) -> Result<Vec<PathBuf>, Error> {
        let fits = |name: &str| match self.format {
            Format::Fog => name == format!("{partition}.img") || name.starts_with(&format!("{partition}.img.")),
            _ => name.starts_with(&format!("{partition}.")) && name.contains("-ptcl-img"),
        };
        let entries = fs::read_dir(self.folder).map_err(|source| self.read_error(self.folder, source))?;
        let entries =
            entries.take(FILES_MAX).filter_map(Result::ok).filter(|entry| fits(&entry.file_name().to_string_lossy()));
        let mut pieces: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        pieces.sort();
        Ok(pieces)
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.folder.join(name);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(TABLE_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|source| self.read_error(&path, source))?;
        Ok(bytes)
    }

    fn read_error(&self, path: &Path, source: io::Error) -> Error {
        Error::Read { path: path.display().to_string(), source }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::damaged(self.format)(what)
    }

    fn refused(&self, what: &str, way_out: &'static str) -> Error {
        Error::Refused { format: self.format.name(), what: what.to_owned(), way_out }
    }
}

fn is_sgdisk_backup(saved: &[u8]) -> bool {
    let signed = |at: usize| saved.get(at..at + 8) == Some(b"EFI PART");
    signed(512) && signed(1024) && saved.len() > 1536
}

/// The pieces of a split file, one after the other.
struct Pieces {
    rest: std::vec::IntoIter<PathBuf>,
    open: Option<File>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                let read = file.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            let Some(next) = self.rest.next() else { return Ok(0) };
            self.open = Some(File::open(next)?);
        }
    }
}
