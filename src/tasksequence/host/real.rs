//! The machine that this process runs on.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::imaging;
use crate::imaging::apply::{Options, make_match};
use crate::imaging::disk::{self, fit};
use crate::imaging::fs as filesystem;
use crate::imaging::import::Source;
use crate::imaging::intake::{self, Finished, Receiver};
use crate::imaging::manifest::{Manifest, VersionId};
use crate::imaging::store::ChunkSource;
use crate::imaging::tree;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::io::{FileAt, ReadAt, Section};
use crate::stdx::kexec;
use crate::stdx::monitor::Progress;
use crate::stdx::time::{Clock, SystemClock, Timestamp};
use crate::tasksequence::journal::{DiskIdentity, Entry};
use crate::tasksequence::layout::{Layout, NewTable, Target};
use crate::tasksequence::link::{ImageGrant, RunId, RunOrder};
use crate::tasksequence::model::{ItemId, Values};

use super::{
    Applied, AppliedTree, Capture, Captured, Command, Disk, Exit, FileContent, FoundFile, Grown, Hardware,
    HardwareTest, Host, HostError, Listed, Place, Root, Watch, WipeMethod, Wiped, mounts, partition, process, root,
    trial, wipe,
};

/// Where the system that is being installed is mounted.
const TARGET: &str = "/run/remint/target";
/// Of the running system, for programs that run in the target.
const SHARED: [&str; 3] = ["dev", "proc", "sys"];
/// In which Windows' own programs are, and none that could run here.
const WINDOWS_ROOT: &str = "ntfs";
/// A site that lost chunks of a capture is sent them again, so often.
const CAPTURE_ROUNDS_MAX: u32 = 3;
/// How often progress is told.
const TELLING: Duration = Duration::from_millis(500);

/// What the program around the run knows and a host does not: how to fetch, and what belongs into an installed system.
pub trait Surroundings {
    /// What the machine is made of, as inventory reads it.
    fn hardware(&mut self) -> Result<Hardware, HostError>;
    /// Whole disks.
    fn disks(&mut self) -> Result<Vec<Disk>, HostError>;
    /// The manifest, its signature checked, and where its chunks are.
    fn image(&mut self, image: &ImageGrant) -> Result<(Manifest, Box<dyn ChunkSource>), HostError>;
    fn secrets(&mut self, run: &RunId, item: &ItemId) -> Result<Values, HostError>;
    /// Fetches data from the appliance for so long: bytes, and the time that it took.
    fn throughput(&mut self, duration: Duration) -> Result<(u64, Duration), HostError>;
    /// Where the chunks of a capture go.
    fn receiver(&mut self, capture: &Capture) -> Result<Box<dyn Receiver>, HostError>;
    /// Puts the agent, its service and its identity into the system mounted at `root`.
    fn install_agent(&mut self, root: &Path, order: &RunOrder) -> Result<Map<String, Value>, HostError>;
    fn agent_is_installed(&mut self, root: &Path, order: &RunOrder) -> Result<bool, HostError>;
    fn install_baseline(&mut self, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError>;
    /// Leaves the run for the agent of the system mounted at `root`.
    fn hand_over(&mut self, root: &Path, order: &RunOrder, journal: &[Entry]) -> Result<(), HostError>;
}

pub struct Real<S> {
    place: Place,
    boot: String,
    surroundings: S,
    /// The system whose root is mounted at `TARGET`.
    target: Option<Target>,
    /// In the order in which they were mounted.
    mounted: Vec<PathBuf>,
    /// Folders of a Windows volume that are there only to mount something in them.
    lent: Vec<PathBuf>,
}

impl<S: Surroundings> Real<S> {
    pub fn new(place: Place, surroundings: S) -> Real<S> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Real { place, boot, surroundings, target: None, mounted: Vec::new(), lent: Vec::new() }
    }

    fn folder(&self, of: Root) -> Result<&'static Path, HostError> {
        match (of, self.place) {
            (Root::Here, _) | (Root::Target, Place::InstalledSystem) => Ok(Path::new("/")),
            (Root::Target, Place::BootEnvironment) if self.target.is_some() => Ok(Path::new(TARGET)),
            (Root::Target, Place::BootEnvironment) => {
                Err(HostError::new("there is no system on the disk yet").hint("put `- apply-image:` before this step"))
            }
        }
    }

    fn close_target(&mut self) -> Result<(), HostError> {
        self.target = None;
        if !self.mounted.is_empty() {
            nix::unistd::sync();
        }
        while let Some(folder) = self.mounted.last() {
            mounts::unmount(folder)?;
            self.mounted.pop();
            let mounted = &self.mounted;
            while let Some(lent) = self.lent.pop_if(|lent| !mounted.iter().any(|folder| folder.starts_with(&*lent))) {
                // One that is not empty has something of the system in it.
                let _ = fs::remove_dir(lent);
            }
        }
        Ok(())
    }

    /// Mounts the root and what belongs to it, and shares what programs need that run in there.
    fn open_target(&mut self, target: &Target) -> Result<(), HostError> {
        self.mount_target(target)?;
        let is_windows = target.root().is_some_and(|root| root.kind == WINDOWS_ROOT);
        for name in SHARED.iter().filter(|_| !is_windows) {
            mounts::share(name, Path::new(TARGET))?;
            self.mounted.push(Path::new(TARGET).join(name));
        }
        Ok(())
    }

    /// Mounts the root: the file system that `format` made for it, or the one that an image has brought.
    /// Gives what people should know of the drivers.
    fn mount_target(&mut self, target: &Target) -> Result<Vec<String>, HostError> {
        let mut notes = Vec::new();
        let disks = self.disks()?;
        if target.root().is_none() {
            let disk = disk_of(&disks, &target.disk)?;
            let found = root_partition(Path::new(&disk.path))?.filter(|found| found.kind.grows_mounted());
            let found = found.ok_or_else(|| {
                HostError::new(format!("no root file system was found on {}", disk.path))
                    .hint("the image must have a partition with ext4, XFS or btrfs")
            })?;
            mounts::mount_at(&found.path, found.kind.name(), Path::new(TARGET))?;
            self.mounted.push(TARGET.into());
        }
        for mount in target.in_order() {
            let disk = disk_of(&disks, &mount.disk)?;
            let device = disk::host::partition_path(Path::new(&disk.path), mount.partition);
            mounts::same_content(&device, &mount.uuid)?;
            let folder = root::resolve(Path::new(TARGET), &mount.at)
                .map_err(|error| HostError::new(format!("mount at {}: {error}", mount.at)))?;
            if target.root().is_some_and(|root| root.kind == WINDOWS_ROOT) {
                self.lend(&folder);
            }
            notes.extend(mounts::mount_file_system(&device, &mount.kind, &folder)?);
            self.mounted.push(folder);
            mounts::name_by_uuid(&device, &mount.uuid);
        }
        Ok(notes)
    }

    /// Remembers the folders of this path that are not there yet, the outermost first.
    fn lend(&mut self, folder: &Path) {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|path| *path != Path::new(TARGET) && !path.exists()).collect();
        self.lent.extend(missing.into_iter().rev().map(Path::to_owned));
    }

    fn put_files(&mut self, image: &ImageGrant, at: &str, watch: &mut dyn Watch) -> Result<AppliedTree, HostError> {
        let (manifest, source) = self.surroundings.image(image)?;
        let (progress, options) = (Progress::default(), Options::default());
        let folder = root::resolve(Path::new(TARGET), at)
            .map_err(|error| HostError::new(format!("put the files of {} at {at}: {error}", image.name)))?;
        let work = || tree::apply::make_match(&manifest, &*source, &folder, &options, &progress, &mut |_| {});
        let receipt = telling(&progress, watch, work).map_err(failed)?;
        Ok(AppliedTree {
            bytes: Applied {
                total_bytes: receipt.bytes.kept_bytes + receipt.bytes.fetched_bytes,
                kept_bytes: receipt.bytes.kept_bytes,
                written_bytes: receipt.bytes.fetched_bytes,
                zeroed_bytes: 0,
                fetched_bytes: receipt.bytes.wire_bytes,
                verified_chunks: receipt.bytes.read_back_chunks,
            },
            files: receipt.files,
            folders: receipt.folders,
            links: receipt.links,
            not_held: receipt.not_held,
        })
    }
}

impl<S: Surroundings> Host for Real<S> {
    fn place(&self) -> Place {
        self.place
    }

    fn boot(&self) -> String {
        self.boot.clone()
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn sleep(&mut self, duration: Duration) {
        thread::sleep(duration);
    }

    fn hardware(&mut self) -> Result<Hardware, HostError> {
        self.surroundings.hardware()
    }

    fn disks(&mut self) -> Result<Vec<Disk>, HostError> {
        self.surroundings.disks()
    }

    fn apply_image(&mut self, image: &ImageGrant, disk: &Disk, watch: &mut dyn Watch) -> Result<Applied, HostError> {
        self.close_target()?;
        let (manifest, source) = self.surroundings.image(image)?;
        let path = Path::new(&disk.path);
        let target = imaging::target::Target::device(path).map_err(failed)?;
        let (progress, options) = (Progress::default(), Options::default());
        let mut summary = None;
        let work = |planned: &mut Option<_>| {
            make_match(&manifest, &*source, &target, &options, &progress, &mut |summary| *planned = Some(*summary))
        };
        let receipt = telling(&progress, watch, || work(&mut summary)).map_err(failed)?;
        drop(target);
        disk::host::reread_partitions(path).map_err(failed)?;
        Ok(Applied {
            total_bytes: manifest.content_bytes() + manifest.zero_bytes(),
            kept_bytes: receipt.kept_bytes,
            written_bytes: receipt.fetched_bytes + receipt.moved_bytes,
            zeroed_bytes: receipt.zeroed_bytes,
            fetched_bytes: receipt.wire_bytes,
            verified_chunks: receipt.read_back_chunks,
        })
    }

    fn capture_image(&mut self, capture: &Capture, disk: &Disk, watch: &mut dyn Watch) -> Result<Captured, HostError> {
        self.close_target()?;
        nix::unistd::sync();
        let receiver = self.surroundings.receiver(capture)?;
        let source = Source::raw(Path::new(&disk.path)).map_err(failed)?;
        for _ in 0..CAPTURE_ROUNDS_MAX {
            let (progress, now) = (Progress::default(), self.now());
            let sent = telling(&progress, watch, || intake::send_disk(&source, now, &*receiver, &progress));
            let (manifest, sent) = sent.map_err(image_failed)?;
            let Finished::Published { version, id } = receiver.finish(&manifest).map_err(image_failed)? else {
                continue;
            };
            let (published, _) = self.surroundings.image(&grant_of(&version.name, &id))?;
            if published.extents != manifest.extents || published.zeros != manifest.zeros {
                return Err(HostError::new(format!("version {version} is not what was captured")));
            }
            return Ok(Captured {
                number: version.number,
                version: id.to_string(),
                read_bytes: sent.read_bytes,
                chunks: sent.chunks,
                sent_chunks: sent.sent_chunks,
                sent_bytes: sent.sent_bytes,
            });
        }
        Err(HostError::new(format!("the site lost chunks of the capture {CAPTURE_ROUNDS_MAX} times")).transient())
    }

    fn apply_tree(
        &mut self,
        image: &ImageGrant,
        target: &Target,
        at: &str,
        watch: &mut dyn Watch,
    ) -> Result<AppliedTree, HostError> {
        self.close_target()?;
        // Without /dev and /proc in it: the image's own would go there.
        let put = self.mount_target(target).and_then(|notes| {
            notes.iter().for_each(|note| watch.line(self.now(), note));
            self.put_files(image, at, watch)
        });
        self.close_target()?;
        put
    }

    fn grow(&mut self, disk: &Disk, watch: &mut dyn Watch) -> Result<Option<Grown>, HostError> {
        self.close_target()?;
        let path = Path::new(&disk.path);
        let fitted = disk::host::fit(path, fit::Wish { grow: fit::Grow::Root, renew: None }).map_err(failed)?;
        if let Some((grown, partition)) = &fitted.grown {
            let text = format!("{} grows from {} to {} bytes", partition.display(), grown.old_bytes, grown.new_bytes);
            watch.line(self.now(), &text);
        }
        let Some(found) = root_partition(path)? else { return Ok(None) };
        let grown = match found.kind {
            filesystem::Kind::Ntfs => disk::host::grow_ntfs(&found.path).map_err(failed)?,
            kind if !kind.grows_mounted() => return Ok(None),
            kind if self.place == Place::InstalledSystem => filesystem::grow(Path::new("/"), kind).map_err(failed)?,
            kind => {
                mounts::mount_at(&found.path, kind.name(), Path::new(TARGET))?;
                let grown = filesystem::grow(Path::new(TARGET), kind).map_err(failed);
                mounts::unmount(Path::new(TARGET))?;
                grown?
            }
        };
        Ok(Some(Grown {
            partition: found.path.display().to_string(),
            file_system: found.kind.name().to_owned(),
            before_bytes: grown.old_bytes,
            after_bytes: grown.new_bytes,
        }))
    }

    fn wipe(&mut self, disk: &Disk, method: WipeMethod, watch: &mut dyn Watch) -> Result<Wiped, HostError> {
        self.close_target()?;
        wipe::wipe(Path::new(&disk.path), method, watch)
    }

    fn test_hardware(&mut self, test: &HardwareTest, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
        let mut evidence = trial::run(test, watch)?;
        if !test.network.is_zero() {
            watch.line(self.now(), "fetching from the appliance");
            let (bytes, took) = self.surroundings.throughput(test.network)?;
            let rate = bytes as f64 / took.as_secs_f64().max(0.001) / 1e6;
            let seconds = took.as_secs_f64();
            let network = json!({ "bytes": bytes, "seconds": seconds, "megabytes_per_second": rate });
            evidence.insert("network".into(), network);
        }
        Ok(evidence)
    }

    fn layout(&mut self, disk: &Disk) -> Result<Option<Layout>, HostError> {
        partition::read(Path::new(&disk.path))
    }

    fn partition(&mut self, disk: &Disk, table: &NewTable) -> Result<(), HostError> {
        self.close_target()?;
        partition::write(Path::new(&disk.path), table)
    }

    fn first_sector(&mut self, disk: &Disk) -> Result<Vec<u8>, HostError> {
        let read = fs::File::open(&disk.path).and_then(FileAt::new).and_then(|device| device.read_vec_at(0, 512));
        read.map_err(failed_to_read(Path::new(&disk.path)))
    }

    fn use_target(&mut self, target: &Target) -> Result<(), HostError> {
        if self.place == Place::InstalledSystem || self.target.as_ref() == Some(target) {
            return Ok(());
        }
        self.close_target()?;
        if let Err(error) = self.open_target(target) {
            self.close_target()?;
            return Err(error);
        }
        self.target = Some(target.clone());
        Ok(())
    }

    fn release_target(&mut self) -> Result<(), HostError> {
        self.close_target()
    }

    fn read(&mut self, of: Root, path: &str) -> Result<Option<FoundFile>, HostError> {
        root::read(self.folder(of)?, path).map_err(|error| HostError::new(format!("read {path}: {error}")))
    }

    fn write(&mut self, of: Root, path: &str, content: &FileContent) -> Result<(), HostError> {
        root::write(self.folder(of)?, path, content).map_err(|error| written(path, &error))
    }

    fn remove(&mut self, of: Root, path: &str) -> Result<bool, HostError> {
        root::remove(self.folder(of)?, path).map_err(|error| HostError::new(format!("remove {path}: {error}")))
    }

    fn list(&mut self, of: Root, path: &str) -> Result<Option<Vec<Listed>>, HostError> {
        root::list(self.folder(of)?, path).map_err(|error| HostError::new(format!("list {path}: {error}")))
    }

    fn variable(&mut self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        let path = variable_path(name)?;
        match fs::read(&path) {
            // The first four bytes are the variable's attributes.
            Ok(bytes) => Ok(Some(bytes.get(4..).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(HostError::new(format!("read the firmware's variable {name}: {error}"))),
        }
    }

    /// In one write, as efivarfs wants it.
    fn set_variable(&mut self, name: &str, value: &[u8]) -> Result<(), HostError> {
        let path = variable_path(name)?;
        let bytes = [&VARIABLE_ATTRIBUTES.to_le_bytes()[..], value].concat();
        let mut options = fs::File::options();
        let written =
            options.create(true).write(true).truncate(false).open(path).and_then(|mut file| file.write_all(&bytes));
        written.map_err(|error| HostError::new(format!("write the firmware's variable {name}: {error}")))
    }

    fn load_kernel(&mut self, kernel: &str, initramfs: &str, command_line: &str) -> Result<(), HostError> {
        let folder = self.folder(Root::Target)?;
        let open = |path: &str| {
            let opened = root::resolve(folder, path).and_then(fs::File::open);
            opened.map_err(|error| HostError::new(format!("open {path}: {error}")))
        };
        kexec::load(&open(kernel)?, &open(initramfs)?, command_line).map_err(|error| {
            HostError::new(format!("have the kernel start {kernel} next: {error}"))
                .hint("under Secure Boot only a signed kernel is taken: restart without `by: kexec`")
        })
    }

    fn command(&mut self, command: &Command, watch: &mut dyn Watch) -> Result<Exit, HostError> {
        let folder = self.folder(command.root)?;
        let other = (folder != Path::new("/")).then_some(folder);
        process::run(command, other, watch).map_err(|error| {
            let name = command.arguments.first().map_or("", String::as_str);
            HostError::new(format!("start `{name}`: {error}")).hint("is the program there, in that system?")
        })
    }

    fn secrets(&mut self, run: &RunId, item: &ItemId) -> Result<Values, HostError> {
        self.surroundings.secrets(run, item)
    }

    fn install_agent(&mut self, order: &RunOrder) -> Result<Map<String, Value>, HostError> {
        let folder = self.folder(Root::Target)?;
        self.surroundings.install_agent(folder, order)
    }

    fn agent_is_installed(&mut self, order: &RunOrder) -> Result<bool, HostError> {
        let folder = self.folder(Root::Target)?;
        self.surroundings.agent_is_installed(folder, order)
    }

    fn install_baseline(&mut self, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
        self.surroundings.install_baseline(watch)
    }

    fn hand_over(&mut self, order: &RunOrder, journal: &[Entry]) -> Result<(), HostError> {
        if self.place == Place::BootEnvironment && self.target.is_some() {
            self.surroundings.hand_over(Path::new(TARGET), order, journal)?;
            self.close_target()?;
        }
        nix::unistd::sync();
        Ok(())
    }
}

/// Does `work` while another thread's counters are told every half second.
fn telling<T: Send>(progress: &Progress, watch: &mut dyn Watch, work: impl FnOnce() -> T + Send) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let done = work();
            over.store(true, Relaxed);
            done
        });
        let (begun, mut spent) = (Instant::now(), progress.spent());
        while !worker.is_finished() && !over.load(Relaxed) {
            thread::park_timeout(TELLING);
            let (done, total) = (Progress::get(&progress.done_bytes), Progress::get(&progress.total_bytes));
            let rate = done as f64 / begun.elapsed().as_secs_f64().max(0.001) / 1e6;
            let now = progress.spent();
            let limit = now.since(spent).limit().map(|limit| format!(", limited by the {limit}")).unwrap_or_default();
            spent = now;
            watch.progress(done, total, "bytes", &format!("{rate:.0} MB/s{limit}"));
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The same as in a run order, for a version that was published just now.
fn grant_of(name: &str, id: &VersionId) -> ImageGrant {
    let name = name.to_owned();
    ImageGrant { reference: name.clone(), name, version: id.to_string(), disk_bytes: 0, used_bytes: 0, tree: false }
}

fn image_failed(error: imaging::error::Error) -> HostError {
    let transient = error.is_transient();
    HostError { transient, ..failed(error) }
}

/// Kept over restarts, usable before and after the operating system has started (UEFI 2.10, 8.2).
const VARIABLE_ATTRIBUTES: u32 = 7;

fn variable_path(name: &str) -> Result<PathBuf, HostError> {
    let folder = Path::new("/sys/firmware/efi/efivars");
    let there = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if !there {
        return Err(HostError::new("this machine gives no access to variables of UEFI firmware").hint(
            "it was started by BIOS, or its kernel lacks efivarfs; `when: machine.firmware == 'uefi'` guards the step",
        ));
    }
    Ok(folder.join(format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c")))
}

struct RootPartition {
    path: PathBuf,
    kind: filesystem::Kind,
}

/// The partition that holds the root file system, as `disk::fit` finds it, or the disk itself when it has no table.
fn root_partition(disk: &Path) -> Result<Option<RootPartition>, HostError> {
    let open = || FileAt::new(fs::File::open(disk)?);
    let device = open().map_err(|error| HostError::new(format!("open {}: {error}", disk.display())))?;
    let table = disk::table::read(&device, None).map_err(failed)?;
    let probe =
        |source: &dyn ReadAt| filesystem::probe(&source).map(|probed| probed.kind).map_err(failed_to_read(disk));
    let Some(table) = table else {
        let kind = probe(&device)?;
        return Ok(kind.grows_mounted().then(|| RootPartition { path: disk.to_owned(), kind }));
    };
    let partitions = table.partitions();
    let Some(partition) = fit::root(&device, &partitions) else { return Ok(None) };
    let Some(section) = Section::new(&device, partition.start, partition.bytes) else { return Ok(None) };
    let kind = probe(&section)?;
    Ok(Some(RootPartition { path: disk::host::partition_path(disk, partition.number), kind }))
}

fn disk_of<'a>(disks: &'a [Disk], identity: &DiskIdentity) -> Result<&'a Disk, HostError> {
    disks.iter().find(|disk| disk.is(identity)).ok_or_else(|| {
        HostError::new(format!("the disk {} that holds the system is gone", identity.path))
            .hint("was a disk taken out or exchanged since the system was put on it?")
    })
}

fn written(path: &str, error: &io::Error) -> HostError {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let failure = HostError::new(format!("write {path}: {error}"));
    if full { failure.hint("the file system is full: use a larger disk, or a smaller image") } else { failure }
}

pub(super) fn failed_to_read(disk: &Path) -> impl Fn(io::Error) -> HostError {
    move |error| HostError::new(format!("read {}: {error}", disk.display()))
}

fn failed<E: std::error::Error + Hint + 'static>(error: E) -> HostError {
    HostError { message: chain(&error), hint: error.hint(), transient: false }
}
