//! The running system as packages may touch it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::converge::{Ended, Machine};
use crate::inventory::software::dpkg_packages;
use crate::stdx::digest::sha256_of_file;
use crate::stdx::file::write_whole_private;

/// What is kept of a program's output: the end, where the reason is.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// What is compared of a file that a setting describes; settings are much smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long what a program has written is waited for after its end; the pipe is closed by then, unless it left somebody.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// After its time is over a program gets so long to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// The installed system this program runs in.
pub struct System {
    /// Where archives are unpacked.
    scratch: PathBuf,
    unpacked: u32,
}

impl System {
    pub fn new(scratch: &Path) -> System {
        System { scratch: scratch.to_owned(), unpacked: 0 }
    }
}

impl Machine for System {
    fn dpkg_version(&mut self, name: &str) -> Option<String> {
        let status = fs::read("/var/lib/dpkg/status").ok()?;
        let packages = dpkg_packages(&String::from_utf8_lossy(&status));
        packages.into_iter().find(|package| package.name == name).map(|package| package.version)
    }

    fn file_sha256(&mut self, path: &str) -> Option<String> {
        sha256_of_file(Path::new(path)).ok()
    }

    fn file_exists(&mut self, path: &str) -> bool {
        fs::symlink_metadata(path).is_ok()
    }

    fn run(&mut self, arguments: &[String], folder: &Path, patience: Duration) -> Result<Ended, String> {
        run(arguments, folder, patience)
    }

    /// tar finds out gzip and xz by itself. zstd, whose program is rarely there, is unpacked here.
    fn unpack(&mut self, archive: &Path) -> Result<PathBuf, String> {
        const PATIENCE: Duration = Duration::from_secs(600);
        self.unpacked += 1;
        let folder = self.scratch.join(format!("unpacked-{}-{}", std::process::id(), self.unpacked));
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let plain = folder.with_extension("tar");
        let is_zstd = inflate_zstd(archive, &plain).map_err(|error| format!("{}: {error}", archive.display()))?;
        let source = if is_zstd { &plain } else { archive };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let arguments = ["tar".to_owned(), "--extract".into(), "--no-same-owner".into(), "--file".into(), text(source)];
        let ended = run(&arguments, &folder, PATIENCE);
        let _ = fs::remove_file(&plain);
        match ended {
            Ok(Ended { code: 0, .. }) => Ok(folder),
            other => {
                self.discard(&folder);
                Err(other.map_or_else(|error| error, |ended| ended.output))
            }
        }
    }

    fn stage_program(&mut self, payload: &Path) -> Result<PathBuf, String> {
        self.unpacked += 1;
        let folder = self.scratch.join(format!("program-{}-{}", std::process::id(), self.unpacked));
        let program = folder.join("program");
        let staged = fs::create_dir_all(&folder)
            .and_then(|()| fs::copy(payload, &program))
            .and_then(|_| fs::set_permissions(&program, fs::Permissions::from_mode(0o700)));
        match staged {
            Ok(()) => Ok(program),
            Err(error) => {
                self.discard(&folder);
                Err(format!("{}: {error}", program.display()))
            }
        }
    }

    fn read_file(&mut self, path: &str) -> Option<(Vec<u8>, u32)> {
        let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some((bytes, metadata.permissions().mode() & 0o7777))
    }

    fn write_file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<(), String> {
        let place = Path::new(path);
        let folder = place.parent().unwrap_or(Path::new("/"));
        let written = fs::create_dir_all(folder)
            .and_then(|()| write_whole_private(place, bytes))
            .and_then(|()| fs::set_permissions(place, fs::Permissions::from_mode(mode)));
        written.map_err(|error| format!("write {path}: {error}"))
    }

    fn remove_file(&mut self, path: &str) -> Result<(), String> {
        fs::remove_file(path).map_err(|error| format!("remove {path}: {error}"))
    }

    fn write_kernel_parameter(&mut self, path: &str, value: &str) -> Result<(), String> {
        fs::write(path, value).map_err(|error| format!("write {path}: {error}"))
    }

    fn discard(&mut self, folder: &Path) {
        // What stays behind is found and removed at the next start, with the whole scratch folder.
        let _ = fs::remove_dir_all(folder);
    }
}

/// Unpacks `archive` to `plain` when it begins with zstd's magic number (RFC 8878 3.1.1); whether it does.
fn inflate_zstd(archive: &Path, plain: &Path) -> io::Result<bool> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut file = File::open(archive)?;
    let mut magic = [0; 4];
    if file.read(&mut magic)? != 4 || magic != MAGIC {
        return Ok(false);
    }
    zstd::stream::copy_decode(File::open(archive)?, File::create(plain)?)?;
    Ok(true)
}

/// Runs a program as the leader of its own process group, so that what it started ends with it. Both outputs are read
/// while it runs; a grandchild that keeps the pipe open does not hold the agent up.
pub fn run(arguments: &[String], folder: &Path, patience: Duration) -> Result<Ended, String> {
    let [program, rest @ ..] = arguments else { return Err("there is no program to run".to_owned()) };
    let (mut reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    let errors = writer.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(rest).current_dir(folder).process_group(0);
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    command.env_clear().envs([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
    ]);
    let mut child = command.spawn().map_err(|error| format!("start {program}: {error}"))?;
    drop(command);
    let (sender, output) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let group = Pid::from_raw(child.id().cast_signed());
    let (status, text) = wait(&mut child, &output, group, patience)?;
    match status {
        Some(code) => Ok(Ended { code, output: text }),
        None => Err(format!("{program} took longer than {} seconds and was stopped. {text}", patience.as_secs())),
    }
}

/// The exit code, or `None` when the time was over, with the end of the output.
fn wait(
    child: &mut std::process::Child,
    output: &Receiver<Vec<u8>>,
    group: Pid,
    patience: Duration,
) -> Result<(Option<i32>, String), String> {
    const POLL: Duration = Duration::from_millis(50);
    let started = Instant::now();
    let mut tail = Vec::new();
    let mut asked_to_end = false;
    loop {
        if let Ok(part) = output.recv_timeout(POLL) {
            keep_tail(&mut tail, part);
        }
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let _ = killpg(group, Signal::SIGKILL);
            let last = Instant::now() + LAST_WORDS;
            while let Ok(part) = output.recv_timeout(last.saturating_duration_since(Instant::now())) {
                keep_tail(&mut tail, part);
            }
            let code =
                status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|s| 128 + s));
            let text = String::from_utf8_lossy(&tail).trim().to_owned();
            return Ok((code.filter(|_| !asked_to_end), text));
        }
        if started.elapsed() > patience + GRACE {
            let _ = killpg(group, Signal::SIGKILL);
        } else if started.elapsed() > patience && !asked_to_end {
            asked_to_end = true;
            let _ = killpg(group, Signal::SIGTERM);
        }
    }
}

fn keep_tail(tail: &mut Vec<u8>, part: Vec<u8>) {
    tail.extend(part);
    let surplus = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
    tail.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_program_ends_with_its_code_and_the_end_of_its_output() {
        let ended =
            run(&words(&["sh", "-c", "echo out; echo err >&2; exit 3"]), Path::new("/"), Duration::from_secs(30));
        assert_eq!(ended.unwrap(), Ended { code: 3, output: "out\nerr".into() });
        let flood =
            run(&words(&["sh", "-c", "yes | head -c 1000000; echo last"]), Path::new("/"), Duration::from_secs(30));
        let flood = flood.unwrap();
        assert!(flood.output.len() <= OUTPUT_BYTES_MAX && flood.output.ends_with("last"));
        assert!(run(&words(&["no-such-program"]), Path::new("/"), GRACE).unwrap_err().contains("no-such-program"));
    }

    #[test]
    fn a_program_that_hangs_is_stopped_with_everything_it_started() {
        let error = run(&words(&["sh", "-c", "sleep 600 & sleep 600"]), Path::new("/"), Duration::from_millis(10));
        assert!(error.unwrap_err().contains("was stopped"));
    }

    #[test]
    fn archives_are_unpacked_whatever_compressed_them() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("hello"), "content").unwrap();
        let tar = |name: &str, flag: &[&str]| {
            let path = scratch.path().join(name);
            let mut arguments = words(&["tar"]);
            arguments.extend(words(flag));
            arguments.extend(words(&["-cf", &path.to_string_lossy(), "hello"]));
            assert_eq!(run(&arguments, scratch.path(), Duration::from_secs(30)).unwrap().code, 0);
            path
        };
        let plain = tar("a.tar", &[]);
        let packed = scratch.path().join("a.tar.zst");
        fs::write(&packed, zstd::encode_all(File::open(&plain).unwrap(), 1).unwrap()).unwrap();
        let mut system = System::new(&scratch.path().join("scratch"));
        for archive in [plain, packed, tar("a.tgz", &["-z"])] {
            let folder = system.unpack(&archive).unwrap();
            assert_eq!(fs::read_to_string(folder.join("hello")).unwrap(), "content");
            system.discard(&folder);
        }
        assert_eq!(fs::read_dir(scratch.path().join("scratch")).unwrap().count(), 0);
        fs::write(scratch.path().join("noise"), "noise").unwrap();
        assert!(system.unpack(&scratch.path().join("noise")).is_err());
    }
}
