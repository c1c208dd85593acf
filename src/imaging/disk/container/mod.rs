//! Containers of disks: qcow2, VHD, VHDX, VMDK, partclone images, folders of Clonezilla and FOG; read-only.
//!
//! Each format's file turns hostile bytes into a list of [`mapped::Extent`]s, which [`mapped::Mapped`] reads. Nothing
//! outside of the given file is ever followed: backing files, parents and external data files are refused; a VMDK's
//! extents must lie in its own folder. Streams that cannot be read at offsets (partclone) are unpacked to a sparse
//! temporary file first.

use crate::stdx::hint::Hint;
use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::sparse::data_ranges;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

pub mod folder;
pub mod mapped;
pub mod partclone;
pub mod qcow2;
pub mod qcow2_writer;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

/// A way to keep a disk in a file. One row here is the name, the detection and the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
    Vhd,
    Vhdx,
    Vmdk,
    /// One partition as partclone stores it, plain or compressed with gzip or zstd.
    Partclone,
    /// A folder as Clonezilla saves a disk.
    Clonezilla,
    /// A folder as FOG saves a disk.
    Fog,
}

impl Format {
    pub const ALL: [Format; 8] = [
        Format::Raw,
        Format::Qcow2,
        Format::Vhd,
        Format::Vhdx,
        Format::Vmdk,
        Format::Partclone,
        Format::Clonezilla,
        Format::Fog,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vmdk => "vmdk",
            Format::Partclone => "partclone",
            Format::Clonezilla => "clonezilla",
            Format::Fog => "fog",
        }
    }

    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// An opened container: the disk inside of it, and what of it is stored.
pub struct Opened {
    pub format: Format,
    pub content: Box<dyn ReadAt>,
    /// The ranges that are stored, sorted; all else reads as zero. `None` when the container does not tell.
    pub stored: Option<Vec<Range<u64>>>,
    /// What is left behind (snapshots), for a person to know.
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: String, source: io::Error },
    #[error("read the {format} image: {what}")]
    Damaged { format: &'static str, what: String },
    #[error("take the {format} image: {what}")]
    Refused { format: &'static str, what: String, way_out: &'static str },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Read { .. } => "check the path and the rights of the file".to_owned(),
            Error::Damaged { .. } => {
                "check it with the program that made it, or name the format with --format".to_owned()
            }
            Error::Refused { way_out, .. } => (*way_out).to_owned(),
        })
    }
}

impl Error {
    fn damaged(format: Format) -> impl Fn(&str) -> Error {
        move |what| Error::Damaged { format: format.name(), what: what.to_owned() }
    }

    fn unreadable(format: Format) -> impl Fn(io::Error) -> Error {
        move |error| Error::Damaged { format: format.name(), what: error.to_string() }
    }
}

/// Opens the image at `path`, whose format is detected unless it is forced. Formats that are streams are unpacked to an
/// unnamed sparse file in `scratch`, which needs room for the used part of the disk.
pub fn open(path: &Path, forced: Option<Format>, scratch: &Path) -> Result<Opened, Error> {
    let read = |source| Error::Read { path: path.display().to_string(), source };
    if path.is_dir() {
        return folder::open(path, scratch);
    }
    let file = FileAt::new(File::open(path).map_err(read)?).map_err(read)?;
    let format = match forced {
        Some(format) => format,
        None => detect(&file).map_err(read)?,
    };
    match format {
        Format::Qcow2 => qcow2::open(file),
        Format::Vhd => vhd::open(file),
        Format::Vhdx => vhdx::open(file),
        Format::Vmdk => vmdk::open(file, path),
        Format::Partclone => partclone::open(file.file(), scratch),
        Format::Raw => raw(file).map_err(read),
        Format::Clonezilla | Format::Fog => Err(Error::Refused {
            format: format.name(),
            what: "it is a folder, not a file".to_owned(),
            way_out: "name the folder that holds the disk's files",
        }),
    }
}

/// The format of a file by its signature; what has none is raw.
pub fn detect(file: &dyn ReadAt) -> io::Result<Format> {
    let head = file.read_vec_at(0, file.size().min(512) as usize)?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    Ok(match () {
        () if starts(b"QFI\xFB") => Format::Qcow2,
        () if starts(b"vhdxfile") => Format::Vhdx,
        () if starts(b"KDMV") || starts(b"# Disk DescriptorFile") => Format::Vmdk,
        () if starts(b"partclone-image") || starts(&[0x1F, 0x8B, 8]) || starts(&[0x28, 0xB5, 0x2F, 0xFD]) => {
            Format::Partclone
        }
        () if starts(b"conectix") || vhd::has_footer(file)? => Format::Vhd,
        () => Format::Raw,
    })
}

/// A file of plain bytes, whose holes are not stored.
fn raw(file: FileAt) -> io::Result<Opened> {
    let stored = Some(data_ranges(file.file(), file.size())?);
    Ok(Opened { format: Format::Raw, content: Box::new(file), stored, warnings: Vec::new() })
}
