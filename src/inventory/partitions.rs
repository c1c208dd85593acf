//! What lies on a disk: its partition table and the first bytes of each file system, read from the device itself, so that
//! a boot environment without udev and without lsblk tells the same as an installed system. Nothing is written.

use std::fs::{self, File};
use std::path::Path;

use super::model::{Disk, Partition};
use crate::imaging::disk::table;
use crate::imaging::fs::{Kind, probe};
use crate::stdx::io::{FileAt, ReadAt, Section};

/// Most partitions of a disk that are told: a GPT is made with room for so many.
pub const PARTITIONS_MAX: usize = 128;

/// The same with what lies on it. A disk that cannot be read has nothing on it that could be told.
pub fn with_partitions(disk: Disk, root: &Path) -> Disk {
    let opened = File::open(root.join("dev").join(&disk.name)).and_then(FileAt::new);
    let partitions = opened.map(|device| partitions(&device, disk.sector_bytes)).unwrap_or_default();
    let mounts = Mounts::read(root);
    let mounted = partitions.into_iter().map(|partition| mounts.add(partition, &disk.name, root));
    Disk { partitions: mounted.collect(), ..disk }
}

/// A disk without a table may be one file system as a whole: that is partition 0.
pub fn partitions(disk: &dyn ReadAt, sector_bytes: u32) -> Vec<Partition> {
    let whole = || {
        let all = Partition { bytes: disk.size(), ..Partition::default() };
        Some(with_filesystem(all, disk)).filter(|all| all.filesystem.is_some()).into_iter().collect()
    };
    let Ok(Some(table)) = table::read(disk, Some(sector_bytes)) else { return whole() };
    let fits = |partition: &table::Partition| partition.bytes > 0 && partition.end() <= disk.size();
    let listed = table.partitions().into_iter().filter(fits).take(PARTITIONS_MAX);
    let told = listed.map(|partition| {
        let known = Partition {
            number: partition.number,
            name: text(partition.name),
            start: partition.start,
            bytes: partition.bytes,
            ..Partition::default()
        };
        with_filesystem(known, disk)
    });
    told.collect()
}

fn with_filesystem(partition: Partition, disk: &dyn ReadAt) -> Partition {
    let window = Section::new(disk, partition.start, partition.bytes);
    let Some(found) = window.and_then(|window| probe(&window).ok()) else { return partition };
    let used = found.free_bytes.filter(|_| found.size_bytes > 0).map(|free| found.size_bytes.saturating_sub(free));
    Partition {
        filesystem: (found.kind != Kind::Unknown).then(|| found.kind.name().to_owned()),
        label: text(found.label),
        used_bytes: used.map(|used| used.min(partition.bytes)),
        ..partition
    }
}

fn text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// `/proc/self/mountinfo`: device numbers and where they are mounted.
struct Mounts(String);

impl Mounts {
    fn read(root: &Path) -> Mounts {
        Mounts(fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default())
    }

    /// A mounted file system knows better than its header how full it is.
    fn add(&self, partition: Partition, disk: &str, root: &Path) -> Partition {
        let Some(place) = device_number(&partition, disk, root).and_then(|number| self.place(number.trim())) else {
            return partition;
        };
        let space = nix::sys::statvfs::statvfs(&root.join(place.trim_start_matches('/'))).ok();
        let used = space.map(|space| {
            space
                .blocks()
                .saturating_sub(space.blocks_free())
                .saturating_mul(space.fragment_size())
                .min(partition.bytes)
        });
        Partition { used_bytes: used.or(partition.used_bytes), mounted_at: Some(place), ..partition }
    }

    /// The shortest path at which the whole of the device is mounted (proc(5): number 2, root 3, mount point 4).
    fn place(&self, number: &str) -> Option<String> {
        let fields = self.0.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let whole = fields.filter(|fields| fields.get(2) == Some(&number) && fields.get(3) == Some(&"/"));
        let places = whole.filter_map(|fields| fields.get(4).map(|place| place.replace("\\040", " ")));
        places.min_by_key(String::len)
    }
}

/// `8:1`, from the folder that the kernel has for the partition below its disk's.
fn device_number(partition: &Partition, disk: &str, root: &Path) -> Option<String> {
    let folder = root.join("sys/block").join(disk);
    if partition.number == 0 {
        return fs::read_to_string(folder.join("dev")).ok();
    }
    let wanted = partition.number.to_string();
    let is_it = |path: &Path| fs::read_to_string(path.join("partition")).is_ok_and(|number| number.trim() == wanted);
    let mut folders = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    folders.find(|path| is_it(path)).and_then(|path| fs::read_to_string(path.join("dev")).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A master boot record with one partition of type 0x83 from sector 2048.
    fn disk(sectors: u32) -> Vec<u8> {
        let mut disk = vec![0; 4 << 20];
        disk[446 + 4] = 0x83;
        disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        disk[446 + 12..446 + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xAA]);
        disk
    }

    /// ext superblock (ext4.h): blocks 4, free 12, block shift 24, magic 56, label 120.
    fn put_ext2(disk: &mut [u8], at: usize) {
        let block = &mut disk[at + 1024..at + 2048];
        block[4..8].copy_from_slice(&1024u32.to_le_bytes());
        block[12..16].copy_from_slice(&1000u32.to_le_bytes());
        block[56..58].copy_from_slice(&[0x53, 0xEF]);
        block[120..124].copy_from_slice(b"root");
    }

    #[test]
    fn a_partition_is_told_with_its_file_system_and_a_bare_file_system_is_number_0() {
        let mut partitioned = disk(4096);
        assert_eq!(partitions(&partitioned, 512)[0].filesystem, None, "nothing is in it yet");
        put_ext2(&mut partitioned, 1 << 20);
        let told = partitions(&partitioned, 512);
        assert_eq!((told.len(), told[0].number, told[0].start, told[0].bytes), (1, 1, 1 << 20, 2 << 20));
        assert_eq!((told[0].filesystem.as_deref(), told[0].label.as_deref()), (Some("ext2"), Some("root")));
        assert_eq!(told[0].used_bytes, Some(24 << 10));
        let mut bare = vec![0; 4 << 20];
        assert!(partitions(&bare, 512).is_empty());
        put_ext2(&mut bare, 0);
        assert_eq!((partitions(&bare, 512)[0].number, partitions(&bare, 512)[0].bytes), (0, 4 << 20));
    }

    #[test]
    fn a_partition_that_ends_behind_its_disk_is_not_told() {
        assert!(partitions(&disk(u32::MAX), 512).is_empty());
        assert!(partitions(&Vec::new(), 512).is_empty());
    }

    #[test]
    fn a_mounted_one_is_as_full_as_its_mount_says() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for folder in ["dev", "proc/self", "srv/my data", "sys/block/sda/sda1"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let mut content = disk(4096);
        put_ext2(&mut content, 1 << 20);
        fs::write(root.join("dev/sda"), content).unwrap();
        fs::write(root.join("sys/block/sda/sda1/partition"), "1\n").unwrap();
        fs::write(root.join("sys/block/sda/sda1/dev"), "8:1\n").unwrap();
        let mounts = "22 1 8:1 /inner /srv - ext2 x rw\n23 1 8:1 / /srv/my\\040data rw - ext2 /dev/sda1 rw\n";
        fs::write(root.join("proc/self/mountinfo"), mounts).unwrap();
        let disk = with_partitions(Disk { name: "sda".into(), sector_bytes: 512, ..Disk::default() }, root);
        assert_eq!(disk.partitions[0].mounted_at.as_deref(), Some("/srv/my data"));
        assert_eq!(disk.partitions[0].used_bytes, Some(2 << 20), "that of the file system here, cut to the partition");
        let absent = with_partitions(Disk { name: "sdb".into(), ..Disk::default() }, root);
        assert!(absent.partitions.is_empty());
    }
}
