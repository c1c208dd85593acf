//! Partition tables of real disks: read with what their partitions hold, and written anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::imaging::disk::guid::Guid;
use crate::imaging::disk::table::{Kind, Partition, Patch, Table};
use crate::imaging::disk::{self, gpt::Gpt, mbr};
use crate::imaging::fs as filesystem;
use crate::stdx::blockdev;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::io::{FileAt, ReadAt, Section};
use crate::tasksequence::layout::{Content, Found, GRID_BYTES, Layout, NewTable, PURPOSES, Scheme, purpose_named};

use super::HostError;

/// The table of the disk or image file at `path`; `None` when it has none.
pub fn read(path: &Path) -> Result<Option<Layout>, HostError> {
    let wrong = failed(path, "read the partitions of");
    let file = File::open(path).map_err(&wrong)?;
    let geometry = blockdev::geometry(&file).map_err(&wrong)?;
    let device = FileAt::new(file).map_err(&wrong)?;
    let sector_bytes = geometry.map(|geometry| geometry.logical_sector_bytes);
    let table = disk::table::read(&device, sector_bytes).map_err(|error| HostError {
        message: chain(&error),
        hint: error.hint(),
        transient: false,
    })?;
    let Some(table) = table else { return Ok(None) };
    let (scheme, sector_bytes) = match &table {
        Table::Gpt(gpt) => (Scheme::Gpt, gpt.sector_bytes),
        Table::Mbr(mbr) => (Scheme::Mbr, mbr.sector_bytes),
    };
    let found = |partition: &Partition| found(path, &device, partition);
    let partitions = table.partitions().iter().map(found).collect::<io::Result<_>>().map_err(&wrong)?;
    Ok(Some(Layout { scheme, sector_bytes, partitions }))
}

fn found(path: &Path, device: &FileAt, partition: &Partition) -> io::Result<Found> {
    let own = disk::host::partition_path(path, partition.number);
    // What was written through the partition's own device need not be in the memory of the whole disk's.
    let content = match (File::open(&own).and_then(FileAt::new), Section::new(device, partition.start, partition.bytes))
    {
        (Ok(own), _) => content(&own)?,
        (Err(_), Some(section)) => content(&section)?,
        (Err(_), None) => Content::default(),
    };
    let purpose = match partition.kind {
        Kind::Gpt(guid) => PURPOSES.iter().find(|one| one.gpt == guid).map(|one| one.name.to_owned()),
        Kind::Mbr(byte) => PURPOSES.iter().find(|one| one.mbr == Some(byte)).map(|one| one.name.to_owned()),
    };
    let purpose = purpose.unwrap_or_else(|| match partition.kind {
        Kind::Gpt(guid) => guid.to_string(),
        Kind::Mbr(byte) => format!("{byte:02x}"),
    });
    Ok(Found {
        number: partition.number,
        path: own.display().to_string(),
        name: partition.name.clone(),
        purpose,
        start: partition.start,
        bytes: partition.bytes,
        guid: partition.guid,
        content,
    })
}

/// What a partition holds, by its superblock.
pub fn content(source: &dyn ReadAt) -> io::Result<Content> {
    let probed = filesystem::probe(&source)?;
    let kind = match probed.kind {
        filesystem::Kind::Unknown => "",
        filesystem::Kind::Fat12 | filesystem::Kind::Fat16 | filesystem::Kind::Fat32 => "fat",
        kind => kind.name(),
    };
    Ok(Content { kind: kind.to_owned(), label: probed.label, uuid: probed.uuid, bytes: probed.size_bytes })
}

/// Writes the table. What lay on the disk is gone with it: the places where file systems, arrays and older tables have
/// their signatures are zeroed first.
pub fn write(path: &Path, table: &NewTable) -> Result<(), HostError> {
    let wrong = |what| failed(path, what);
    let file = File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => HostError::new(format!("{} is in use", path.display()))
            .hint("something on it is mounted or part of an array"),
        _ => wrong("open")(error),
    })?;
    let geometry = blockdev::geometry(&file).map_err(wrong("ask the size of"))?;
    let sector_bytes = geometry.map_or(512, |geometry| u64::from(geometry.logical_sector_bytes));
    let device = FileAt::new(file).map_err(wrong("ask the size of"))?;
    forget(&device, table).map_err(wrong("clear"))?;
    for patch in patches(device.size(), sector_bytes, table) {
        device.file().write_all_at(&patch.bytes, patch.offset).map_err(wrong("write the partition table of"))?;
    }
    device.file().sync_all().map_err(wrong("sync"))?;
    drop(device);
    disk::host::reread_partitions(path).map_err(|error| HostError {
        message: chain(&error),
        hint: error.hint(),
        transient: false,
    })
}

/// Zeroes both ends of the disk and of every partition to be.
fn forget(device: &FileAt, table: &NewTable) -> io::Result<()> {
    let zeros = vec![0u8; GRID_BYTES as usize];
    let mut ranges = vec![(0, device.size())];
    ranges.extend(table.partitions.iter().map(|one| (one.start, one.start + one.bytes)));
    for (start, end) in ranges {
        for offset in [start, end.saturating_sub(GRID_BYTES).max(start)] {
            let bytes = GRID_BYTES.min(end - offset) as usize;
            device.file().write_all_at(&zeros[..bytes], offset)?;
        }
    }
    device.file().sync_all()
}

fn patches(disk_bytes: u64, sector_bytes: u64, table: &NewTable) -> Vec<Patch> {
    let draw = |number: u32| {
        let digest = blake3::keyed_hash(&table.seed, &number.to_le_bytes());
        let mut random = [0; 16];
        random.copy_from_slice(&digest.as_bytes()[..16]);
        Guid::from_random(random)
    };
    if table.scheme == Scheme::Mbr {
        let signature = u32::from_le_bytes([table.seed[0], table.seed[1], table.seed[2], table.seed[3]]);
        let kind = |purpose: &str| purpose_named(purpose).and_then(|purpose| purpose.mbr).unwrap_or(0x83);
        let new = table.partitions.iter().map(|one| mbr::New {
            kind: kind(&one.purpose),
            start: one.start,
            bytes: one.bytes,
            active: one.bootable,
        });
        let sector = mbr::create(signature, sector_bytes, &new.collect::<Vec<_>>());
        return vec![Patch { offset: 0, bytes: sector }];
    }
    let mut gpt = Gpt::create(disk_bytes, sector_bytes, draw(0));
    for one in &table.partitions {
        let kind = purpose_named(&one.purpose).map_or(disk::table::LINUX_DATA, |purpose| purpose.gpt);
        gpt.set(one.number, kind, draw(one.number), &one.name, one.start, one.bytes);
    }
    let mut patches = gpt.emit(disk_bytes);
    let protective = mbr::protective(&[0; 512], disk_bytes / sector_bytes);
    patches.extend(protective.map(|bytes| Patch { offset: 0, bytes }));
    patches
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> HostError {
    let name = path.display().to_string();
    move |error| HostError::new(format!("{what} {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasksequence::layout::{Share, Wanted, place};

    fn table(scheme: Scheme, disk_bytes: u64) -> NewTable {
        let wanted = |name: &str, purpose: &str, size| Wanted {
            name: name.into(),
            purpose: purpose.into(),
            size,
            bootable: purpose == "linux",
        };
        let list = [
            wanted("esp", "esp", Share::Bytes(40 << 20)),
            wanted("root", "linux", Share::Rest),
            wanted("swap", "swap", Share::Percent(1000)),
        ];
        NewTable { scheme, partitions: place(scheme, &list, disk_bytes).unwrap(), seed: [7; 32] }
    }

    #[test]
    fn what_is_written_reads_back_and_is_what_sfdisk_sees() {
        for scheme in [Scheme::Gpt, Scheme::Mbr] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let disk_bytes = (300 << 20) + 4096;
            file.as_file().set_len(disk_bytes).unwrap();
            let table = table(scheme, disk_bytes);
            write(file.path(), &table).unwrap();
            let first = std::fs::read(file.path()).unwrap();
            let layout = read(file.path()).unwrap().unwrap();
            assert!(layout.is(scheme, &table.partitions), "{layout:?}");
            assert_eq!(
                layout.partitions.iter().map(|one| one.purpose.as_str()).collect::<Vec<_>>(),
                ["esp", "linux", "swap"]
            );
            write(file.path(), &table).unwrap();
            assert!(first == std::fs::read(file.path()).unwrap(), "the same seed gives the same bytes");
            sfdisk_agrees(file.path(), &table);
        }
    }

    fn sfdisk_agrees(path: &Path, table: &NewTable) {
        let program = if Path::new("/sbin/sfdisk").exists() { "/sbin/sfdisk" } else { "sfdisk" };
        let Ok(output) = std::process::Command::new(program).arg("--json").arg(path).output() else {
            println!("skipped: sfdisk is not installed");
            return;
        };
        let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let seen = seen["partitiontable"]["partitions"].as_array().unwrap().clone();
        let bytes = |value: &serde_json::Value| value.as_u64().unwrap() * 512;
        let places: Vec<(u64, u64)> = seen.iter().map(|one| (bytes(&one["start"]), bytes(&one["size"]))).collect();
        assert_eq!(places, table.partitions.iter().map(|one| (one.start, one.bytes)).collect::<Vec<_>>());
    }

    #[test]
    fn an_older_table_and_file_system_are_not_found_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let disk_bytes = 300 << 20;
        file.as_file().set_len(disk_bytes).unwrap();
        let gpt = table(Scheme::Gpt, disk_bytes);
        write(file.path(), &gpt).unwrap();
        let root = &gpt.partitions[1];
        // An ext4 superblock's magic number and a label where they would be.
        let mut superblock = vec![0u8; 1024];
        superblock[56..58].copy_from_slice(&[0x53, 0xEF]);
        file.as_file().write_all_at(&superblock, root.start + 1024).unwrap();
        write(file.path(), &table(Scheme::Mbr, disk_bytes)).unwrap();
        let layout = read(file.path()).unwrap().unwrap();
        assert_eq!(layout.scheme, Scheme::Mbr, "the copy of the GPT at the end is gone");
        assert!(layout.partitions.iter().all(|one| one.content == Content::default()), "{layout:?}");
    }
}
