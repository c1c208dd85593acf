//! VMDK (VMware, "Virtual Disk Format 5.0"): monolithic and split, sparse and flat, stream-optimized. Little-endian; all
//! places are counted in sectors of 512 bytes. Extents are files of the same folder, or refused.

use super::mapped::{Codec, Extent, Extents, Mapped, Place};
use super::{Error, Format, Opened};
use crate::stdx::bytes::Fields;
use crate::stdx::io::{FileAt, ReadAt};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

const SECTOR: u64 = 512;
const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;
/// VMware splits at 2 GB: this is more than a disk of 64 TiB.
const FILES_MAX: usize = 1 << 15;
const GRAIN_SECTORS_MAX: u64 = 1 << 12;
const TABLE_ENTRIES_MAX: u64 = 1 << 16;
const FLAG_ZEROED: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
/// The directory is named by the footer, as in a stream.
const AT_END: u64 = u64::MAX;
/// A petabyte, well above what VMware makes.
const DISK_BYTES_MAX: u64 = 1 << 50;

pub fn open(file: FileAt, path: &Path) -> Result<Opened, Error> {
    let magic = file.read_vec_at(0, 4).map_err(Error::unreadable(Format::Vmdk))?;
    let mut disk = Disk::default();
    if magic == b"KDMV" {
        let header = Sparse::read(&file)?;
        check_descriptor(&header.descriptor(&file)?)?;
        let sectors = header.capacity;
        disk.add_sparse(Box::new(file), &header, sectors)?;
    } else {
        let bytes = file.size();
        if bytes > DESCRIPTOR_BYTES_MAX {
            return Err(damaged("its descriptor is too long"));
        }
        let text = file.read_vec_at(0, bytes as usize).map_err(Error::unreadable(Format::Vmdk))?;
        disk.add_described(&String::from_utf8_lossy(&text), path)?;
    }
    let mapped = Mapped::new(disk.files, disk.bytes, disk.extents);
    let stored = Some(mapped.stored());
    Ok(Opened { format: Format::Vmdk, content: Box::new(mapped), stored, warnings: Vec::new() })
}

fn damaged(what: &str) -> Error {
    Error::damaged(Format::Vmdk)(what)
}

/// Refuses what refers to a parent.
fn check_descriptor(text: &str) -> Result<(), Error> {
    let lines = || text.lines().map(str::trim);
    let parent =
        lines().filter_map(|line| line.strip_prefix("parentCID=")).any(|id| !id.eq_ignore_ascii_case("ffffffff"));
    if parent || lines().any(|line| line.starts_with("parentFileNameHint")) {
        return Err(Error::Refused {
            format: "vmdk",
            what: "it is a difference to a parent, which is never followed".to_owned(),
            way_out: "make it stand alone first: qemu-img convert -O vmdk IMAGE NEW",
        });
    }
    Ok(())
}

/// The disk under construction, extent file by extent file.
#[derive(Default)]
struct Disk {
    files: Vec<Box<dyn ReadAt>>,
    extents: Extents,
    bytes: u64,
}

impl Disk {
    /// Lines `RW 4192256 SPARSE "name-s001.vmdk"`, `RW 63 FLAT "name-flat.vmdk" 0`, `RW 8192 ZERO`.
    fn add_described(&mut self, text: &str, path: &Path) -> Result<(), Error> {
        check_descriptor(text)?;
        for line in text.lines().map(str::trim) {
            let Some(rest) = line.strip_prefix("RW ").or_else(|| line.strip_prefix("RDONLY ")) else { continue };
            let mut words = rest.splitn(3, ' ');
            let sectors = words.next().and_then(|word| word.parse::<u64>().ok());
            let sectors = sectors.filter(|sectors| (1..1 << 40).contains(sectors));
            let sectors = sectors.ok_or_else(|| damaged("an extent has no size"))?;
            let kind = words.next().unwrap_or_default();
            if kind == "ZERO" {
                self.bytes += sectors * SECTOR;
            } else {
                self.add_file(kind, sectors, words.next().unwrap_or_default(), path)?;
            }
            if self.bytes > DISK_BYTES_MAX {
                return Err(damaged("its extents add up to more than any disk"));
            }
        }
        if self.bytes == 0 { Err(damaged("its descriptor names no extent")) } else { Ok(()) }
    }

    fn add_file(&mut self, kind: &str, sectors: u64, rest: &str, path: &Path) -> Result<(), Error> {
        let mut quoted = rest.splitn(3, '"').skip(1);
        let (name, after) = (quoted.next().unwrap_or_default(), quoted.next().unwrap_or_default());
        if name.is_empty() || name.contains(['/', '\\']) || name == ".." || self.files.len() >= FILES_MAX {
            return Err(Error::Refused {
                format: "vmdk",
                what: format!("its extent {name:?} lies in another folder, which is never followed"),
                way_out: "put all files of the disk into one folder",
            });
        }
        let place = path.with_file_name(name);
        let read = |source| Error::Read { path: place.display().to_string(), source };
        // A link would lead out of the folder as well as a path does.
        if std::fs::symlink_metadata(&place).map_err(read)?.file_type().is_symlink() {
            return Err(damaged("one of its extents is a link"));
        }
        let file = FileAt::new(File::open(&place).map_err(read)?).map_err(read)?;
        match kind {
            "FLAT" | "VMFS" => self.add_flat(file, sectors, after.trim().parse::<u64>().unwrap_or(0)),
            "SPARSE" => {
                let header = Sparse::read(&file)?;
                self.add_sparse(Box::new(file), &header, sectors)
            }
            other => Err(Error::Refused {
                format: "vmdk",
                what: format!("extents of type {other} are not known here"),
                way_out: "convert it first: qemu-img convert -O qcow2 IMAGE NEW",
            }),
        }
    }

    fn add_flat(&mut self, file: FileAt, sectors: u64, from: u64) -> Result<(), Error> {
        let (len, at) = (sectors * SECTOR, from.saturating_mul(SECTOR));
        if at.checked_add(len).is_none_or(|end| end > file.size()) {
            return Err(damaged("a flat extent is shorter than its descriptor says"));
        }
        let place = Place::Plain { file: self.files.len() as u16, at };
        self.push(Extent { start: self.bytes, len, place })?;
        self.files.push(Box::new(file));
        self.bytes += len;
        Ok(())
    }

    /// Directory, tables, grains.
    fn add_sparse(&mut self, file: Box<dyn ReadAt>, header: &Sparse, sectors: u64) -> Result<(), Error> {
        let unreadable = Error::unreadable(Format::Vmdk);
        let sectors = sectors.min(header.capacity);
        let grains = sectors.div_ceil(header.grain_sectors);
        let tables = grains.div_ceil(header.table_entries);
        if header
            .directory_at
            .checked_mul(SECTOR)
            .and_then(|at| at.checked_add(tables * 4))
            .is_none_or(|end| end > file.size())
        {
            return Err(damaged("its grain directory lies outside of the file"));
        }
        let directory = file.read_vec_at(header.directory_at * SECTOR, (tables * 4) as usize).map_err(&unreadable)?;
        let mut seen = std::collections::HashSet::new();
        for (index, entry) in directory.chunks_exact(4).enumerate() {
            let table_at = u64::from(Fields(entry).le32(0)) * SECTOR;
            if table_at == 0 {
                continue;
            }
            if !seen.insert(table_at) {
                return Err(damaged("one of its grain tables is used twice"));
            }
            let table = file.read_vec_at(table_at, (header.table_entries * 4) as usize).map_err(&unreadable)?;
            let first = index as u64 * header.table_entries;
            for (entry, grain) in table.chunks_exact(4).zip(first..grains) {
                let len = header.grain_bytes().min((sectors * SECTOR).saturating_sub(grain * header.grain_bytes()));
                let start = self.bytes + grain * header.grain_bytes();
                self.add_grain(&*file, header, u64::from(Fields(entry).le32(0)), start..start + len)?;
            }
        }
        self.bytes += sectors * SECTOR;
        self.files.push(file);
        Ok(())
    }

    /// Sector 0 is not there, sector 1 (with its flag) is zero. A packed grain starts with its own sector number (8 bytes)
    /// and its packed size (4 bytes).
    fn add_grain(&mut self, file: &dyn ReadAt, header: &Sparse, sector: u64, grain: Range<u64>) -> Result<(), Error> {
        if sector == 0 || sector == 1 && header.flags & FLAG_ZEROED != 0 {
            return Ok(());
        }
        let at = sector * SECTOR;
        if at >= file.size() {
            return Err(damaged("a grain lies outside of the file"));
        }
        let place = if header.flags & FLAG_COMPRESSED == 0 {
            Place::Plain { file: self.files.len() as u16, at }
        } else {
            let marker = file.read_vec_at(at, 12).map_err(Error::unreadable(Format::Vmdk))?;
            let bytes = Fields(&marker).le32(8);
            // Only a single file can be packed: a stream. Deflate never grows a grain by more than this.
            if u64::from(bytes) > header.grain_bytes() + 4096 || !self.files.is_empty() {
                return Err(damaged("a packed grain is too long"));
            }
            Place::Packed { at: at + 12, bytes, codec: Codec::Zlib }
        };
        self.push(Extent { start: grain.start, len: grain.end - grain.start, place })
    }

    fn push(&mut self, extent: Extent) -> Result<(), Error> {
        self.extents.push(extent).ok_or_else(|| damaged("it is in too many pieces"))
    }
}

/// `SparseExtentHeader`, whose offsets the calls name.
struct Sparse {
    flags: u32,
    capacity: u64,
    grain_sectors: u64,
    descriptor_at: u64,
    descriptor_sectors: u64,
    table_entries: u64,
    directory_at: u64,
}

impl Sparse {
    /// The header, or where it says so the footer: the last sector but one.
    fn read(file: &dyn ReadAt) -> Result<Sparse, Error> {
        let first = Sparse::at(file, 0)?;
        if first.directory_at != AT_END {
            return Ok(first);
        }
        let footer = Sparse::at(file, file.size().saturating_sub(2 * SECTOR))?;
        let contradicts = footer.capacity != first.capacity || footer.directory_at == AT_END;
        if contradicts { Err(damaged("its footer contradicts its header")) } else { Ok(footer) }
    }

    fn at(file: &dyn ReadAt, at: u64) -> Result<Sparse, Error> {
        let bytes = file.read_vec_at(at, SECTOR as usize).map_err(Error::unreadable(Format::Vmdk))?;
        let header = Fields(&bytes);
        let found = Sparse {
            flags: header.le32(8),
            capacity: header.le64(12),
            grain_sectors: header.le64(20),
            descriptor_at: header.le64(28),
            descriptor_sectors: header.le64(36),
            table_entries: u64::from(header.le32(44)),
            directory_at: header.le64(56),
        };
        let grains = found.grain_sectors.is_power_of_two() && (1..=GRAIN_SECTORS_MAX).contains(&found.grain_sectors);
        let tables = (1..=TABLE_ENTRIES_MAX).contains(&found.table_entries);
        if header.slice(0, 4) != b"KDMV" || !grains || !tables || found.capacity > 1 << 40 {
            return Err(damaged("the sizes in its header make no sense"));
        }
        if found.flags & FLAG_COMPRESSED != 0 && header.le16(77) != 1 {
            return Err(damaged("it is packed in a way that is not known here"));
        }
        Ok(found)
    }

    fn grain_bytes(&self) -> u64 {
        self.grain_sectors * SECTOR
    }

    /// The text that a monolithic image carries.
    fn descriptor(&self, file: &dyn ReadAt) -> Result<String, Error> {
        let bytes = self.descriptor_sectors.saturating_mul(SECTOR).min(DESCRIPTOR_BYTES_MAX);
        let at = self.descriptor_at.saturating_mul(SECTOR);
        let there = file.size().saturating_sub(at).min(bytes);
        let text = file.read_vec_at(at, there as usize).map_err(Error::unreadable(Format::Vmdk))?;
        Ok(Fields(&text).text(0, text.len()))
    }
}
