//! Running the tools.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use remint::stdx::io::{FileAt, ReadAt};

use crate::targets::sectors::{Disk, SECTOR};

/// Sectors of one byte, as logs and spare areas are filled with, that a seed keeps of a run.
const UNIFORM_KEPT: u32 = 4;
/// Sectors of a seed: the structures of every file system here fit, contents need not.
const SECTORS_MAX: usize = 900;

/// A folder that goes away, and names in it.
pub struct Bench(tempfile::TempDir);

impl Bench {
    pub fn new() -> Bench {
        Bench(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn blank(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        path
    }
}

/// Runs a line of words; `{}` stands for `file`. Says what failed and gives `None`.
pub fn run(line: &str, file: &Path) -> Option<Vec<u8>> {
    let file = file.display().to_string();
    let words: Vec<String> = line.split(' ').map(|word| word.replace("{}", &file)).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").stderr(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => Some(output.stdout),
        Ok(output) => {
            println!("left out: {line}: {}", output.status);
            None
        }
        Err(error) => {
            println!("left out: {line}: {error}");
            None
        }
    }
}

/// The same with a script of the shell, for pipes.
pub fn shell(script: &str, file: &Path) -> Option<Vec<u8>> {
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(file).output();
    let output = status.ok().filter(|output| output.status.success());
    if output.is_none() {
        println!("left out: {script}");
    }
    output.map(|output| output.stdout)
}

/// A file as a sparse disk whose sums are mended when it is read.
pub fn disk_of(path: &Path) -> Vec<u8> {
    let file = File::open(path).and_then(FileAt::new).expect("what a tool made can be read");
    let mut disk = Disk::blank(file.size());
    let (mut uniform, mut kept) = ((0u8, 0), 0);
    for at in (0..file.size()).step_by(SECTOR) {
        let len = (file.size() - at).min(SECTOR as u64) as usize;
        let sector = file.read_vec_at(at, len).expect("what a tool made can be read");
        let is_uniform = sector.iter().all(|byte| *byte == sector[0]);
        uniform = match uniform {
            (byte, count) if is_uniform && byte == sector[0] => (byte, count + 1),
            _ => (sector[0], u32::from(is_uniform)),
        };
        let is_zero = is_uniform && sector[0] == 0;
        if is_zero || (is_uniform && uniform.1 > UNIFORM_KEPT) || kept >= SECTORS_MAX {
            continue;
        }
        kept += 1;
        disk.write(at, &sector);
    }
    disk.emit()
}
