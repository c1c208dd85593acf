//! Containers of disks: opened, and what opens is read at its beginning, its end and along what is stored.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use remint::imaging::disk::container::{self, Error, Opened};
use remint::stdx::io::{FileAt, ReadAt};

use super::sectors::Disk;
use super::sums::{mend_partclone, mend_vhd, mend_vhdx};

/// Read of each stored range, and in all.
const READ_BYTES: u64 = 1 << 20;
const RANGES_READ: usize = 16;

pub(crate) fn qcow2(input: &[u8]) {
    read(container::qcow2::open(Disk::parse(input)));
}

/// VHD, VHDX and VMDK, which their signatures tell apart.
pub(crate) fn virtual_disks(input: &[u8]) {
    let mut disk = Disk::parse(input);
    vmdk(&disk);
    if disk.mend {
        mend_vhd(&mut disk);
        mend_vhdx(&mut disk);
    }
    read(container::vhdx::open(disk.clone()));
    read(container::vhd::open(disk));
}

/// A sparse extent, or a descriptor with files beside it: its own file is all that there is.
fn vmdk(disk: &Disk) {
    let head = disk.read_vec_at(0, disk.size.min(21) as usize).expect("it lies on the disk");
    if !head.starts_with(b"KDMV") && !head.starts_with(b"# Disk DescriptorFile") {
        return;
    }
    let folder = scratch();
    let path = folder.path().join("image.vmdk");
    if let Some(file) = write(disk, &path) {
        read(container::vmdk::open(file, &path));
    }
}

/// A sparse file with the disk's bytes; `None` where the file system takes none of that size.
fn write(disk: &Disk, path: &Path) -> Option<FileAt> {
    let file = File::options().create_new(true).read(true).write(true).open(path).expect("a scratch file");
    file.set_len(disk.size).ok()?;
    for at in disk.places().into_iter().filter(|at| *at < disk.size) {
        let sector = disk.read_vec_at(at, (disk.size - at).min(512) as usize).expect("it lies on the disk");
        file.write_all_at(&sector, at).expect("a scratch file is written");
    }
    FileAt::new(file).ok()
}

/// What is said of an image that is refused; `None` of one that opens.
pub(crate) fn refusal(input: &[u8]) -> Option<String> {
    let mut disk = Disk::parse(input);
    mend_vhd(&mut disk);
    mend_vhdx(&mut disk);
    let folder = scratch();
    let path = folder.path().join("image.vmdk");
    write(&disk, &path).expect("a scratch file");
    container::open(&path, None, folder.path()).err().map(|error| error.to_string())
}

/// First byte: bit 0, sums are made right; bit 1, what follows is a folder.
pub(crate) fn partclone(input: &[u8]) {
    match input.split_first() {
        Some((flags, members)) if flags & 2 == 2 => folder(members),
        Some((flags, image)) => stream(*flags, image.to_vec()),
        None => {}
    }
}

/// A stream, plain or packed.
fn stream(flags: u8, mut image: Vec<u8>) {
    if flags & 1 == 1 {
        mend_partclone(&mut image);
    }
    let folder = scratch();
    let path = folder.path().join("image");
    std::fs::write(&path, image).expect("a scratch file is written");
    read(container::partclone::open(&File::open(&path).expect("it was just written"), folder.path()));
}

/// A folder of Clonezilla or FOG: members as name length (1), content length (4), name, content.
fn folder(input: &[u8]) {
    let folder = scratch();
    let inside = folder.path().join("saved");
    std::fs::create_dir(&inside).expect("a scratch folder is made");
    for (name, content) in members(input) {
        let _ = std::fs::write(inside.join(name), content);
    }
    read(container::folder::open(&inside, folder.path()));
}

/// The members of a folder whose names are plain file names.
fn members(mut input: &[u8]) -> Vec<(String, &[u8])> {
    let mut members = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<5>() {
        let name_bytes = usize::from(head[0]).min(rest.len());
        let (name, rest) = rest.split_at(name_bytes);
        let content_bytes = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (content, rest) = rest.split_at(content_bytes.min(rest.len()));
        let name = String::from_utf8_lossy(name).into_owned();
        let plain = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
        if plain {
            members.push((name, content));
        }
        input = rest;
    }
    members
}

/// The other way round, for seeds.
pub(crate) fn emit_members<'a>(members: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}

fn read(opened: Result<Opened, Error>) {
    let Ok(opened) = opened else { return };
    let size = opened.content.size();
    let len = size.min(READ_BYTES);
    let mut places = vec![0, size - len];
    if let Some(stored) = &opened.stored {
        assert!(stored.iter().all(|range| range.start < range.end && range.end <= size), "stored beyond the disk");
        assert!(stored.windows(2).all(|pair| pair[0].end <= pair[1].start), "stored ranges overlap");
        places.extend(stored.iter().take(RANGES_READ).map(|range| range.start));
    }
    for at in places {
        let _ = opened.content.read_vec_at(at, (size - at).min(READ_BYTES) as usize);
    }
    let past = opened.content.read_vec_at(size, 1);
    assert!(past.is_err(), "a byte behind the end was read");
}

/// In memory where the machine has such a folder: a fuzzer makes thousands of them a second.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).expect("a scratch folder")
}
