//! What lies inside a machine's disk while it is off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::error::Error;

/// An ext4 file system in a partition of a disk image, read by debugfs(8).
pub struct Ext4 {
    disk: PathBuf,
    offset: u64,
    /// Bytes that the file system spans, from its superblock.
    pub size_bytes: u64,
}

impl Ext4 {
    /// The file system in the partition of that name (GPT).
    pub fn open(disk: &Path, partition: &str) -> Result<Ext4, Error> {
        let wrong = |message: String| Error::Command { command: format!("read {}", disk.display()), message };
        let table = Command::new("/sbin/sfdisk").arg("--json").arg(disk).output().map_err(Error::missing("sfdisk"))?;
        let table: Value = serde_json::from_slice(&table.stdout).map_err(|error| wrong(error.to_string()))?;
        let entries = table["partitiontable"]["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = entries.iter().find(|entry| entry["name"] == partition).and_then(|entry| entry["start"].as_u64());
        let offset = 512 * found.ok_or_else(|| wrong(format!("it has no partition `{partition}`")))?;
        // The superblock is 1024 bytes in: s_blocks_count_lo at 4, s_log_block_size at 24, s_magic at 56.
        let mut superblock = [0; 64];
        let file = File::open(disk).map_err(Error::file(disk))?;
        file.read_exact_at(&mut superblock, offset + 1024).map_err(Error::file(disk))?;
        let word = |at: usize| {
            u32::from_le_bytes([superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]])
        };
        if superblock[56..58] != [0x53, 0xEF] {
            return Err(wrong(format!("partition `{partition}` holds no ext4")));
        }
        let block_bytes = 1024_u64.checked_shl(word(24)).unwrap_or(0);
        Ok(Ext4 { disk: disk.to_owned(), offset, size_bytes: u64::from(word(4)) * block_bytes })
    }

    /// The content of a file, or `None` when there is none of that name.
    pub fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let output = Command::new("debugfs")
            .arg("-R")
            .arg(format!("cat {path}"))
            .arg(format!("{}?offset={}", self.disk.display(), self.offset))
            .output()
            .map_err(Error::missing("debugfs"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let missing = complaint.contains("File not found");
        Ok((!missing).then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}
