//! A machine in memory whose power can be cut after any action.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::stdx::time::Timestamp;

use super::event::{Directive, Line, Reporter, StepProgress};
use super::facts::Facts;
use super::host::{
    Applied, AppliedTree, Capture, Captured, Command, Disk, Exit, FileContent, FoundFile, Grown, Hardware,
    HardwareTest, Host, HostError, Listed, Place, Root, Watch, WipeMethod, Wiped,
};
use super::journal::{Entry, JournalError, JournalStore, RunResult};
use super::layout::{Content, Found, Layout, NewTable, Target};
use super::link::{ImageGrant, RunId, RunOrder};
use super::model::{Item, ItemId, Sequence, Values};
use super::run::{Outcome, Then, drive};

/// What survives a power cut, and the fuse that causes one.
#[derive(Default)]
pub(super) struct World {
    pub(super) journal: Vec<Entry>,
    pub(super) disk: ScriptedDisk,
    /// How often each command has run to its end.
    pub(super) commands: BTreeMap<String, u32>,
    pub(super) boots: u32,
    pub(super) place: Option<Place>,
    pub(super) actions: u64,
    /// The power goes once so many actions are done.
    pub(super) cut_at: Option<u64>,
    pub(super) now: i64,
    /// Exit codes of commands by their first argument, used up from the front; then 0.
    pub(super) exits: BTreeMap<String, Vec<i32>>,
    /// What `directive` answers from a number of actions on.
    pub(super) directives: Vec<(u64, Directive)>,
    pub(super) reported: Vec<Entry>,
    /// A machine whose installed system does not start.
    pub(super) never_starts: bool,
    /// The journal is with the appliance.
    pub(super) keeps_no_journal: bool,
    /// The machine was switched off in the end.
    pub(super) off: bool,
    /// What was captured, by the image's name.
    pub(super) captured: BTreeMap<String, ScriptedDisk>,
    /// Variables of the firmware.
    pub(super) variables_of_firmware: BTreeMap<String, Vec<u8>>,
    /// A kernel that the next restart starts without the firmware.
    pub(super) kernel: Option<String>,
    /// What a person answers to any question, once it was asked so many times.
    pub(super) answer: Option<(u32, Value)>,
    pub(super) asked: u32,
    /// What is cut is the agent's life, not the machine's power.
    pub(super) only_the_agent: bool,
    pub(super) crashed: bool,
    /// Values given to the run.
    pub(super) variables: Values,
    /// What the appliance releases to steps, and to which it has.
    pub(super) secrets: Values,
    pub(super) released: Vec<String>,
    /// Bytes of the disk that a wipe does not get to.
    pub(super) unreadable_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ScriptedDisk {
    /// The image, chunk by chunk.
    pub(super) chunks: Vec<u8>,
    pub(super) grown: bool,
    pub(super) files: BTreeMap<String, (Vec<u8>, u32)>,
    pub(super) baseline: bool,
    pub(super) layout: Option<Layout>,
    /// What boot code its first sector holds.
    pub(super) boot_code: &'static str,
}

const IMAGE_CHUNKS: usize = 4;
const DISK_BYTES: u64 = 20 << 30;

impl World {
    fn dead(&self) -> bool {
        self.cut_at.is_some_and(|cut| self.actions >= cut)
    }

    /// One action. An error when the power is gone: then nothing has happened.
    fn act(&mut self) -> Result<(), HostError> {
        if self.dead() {
            return Err(HostError::new("the power is gone"));
        }
        self.actions += 1;
        self.now += 10;
        Ok(())
    }

    /// Drives the run on in the same boot after the agent was killed, instead of after a restart of the machine.
    fn begins_anew(&mut self) {
        if !std::mem::take(&mut self.crashed) {
            self.boots += 1;
        }
    }

    /// Boots and drives the run until it is over, through restarts and one power cut.
    pub(super) fn live(&mut self, sequence: &Sequence) -> RunResult {
        for _ in 0..40 {
            self.begins_anew();
            let mut order = order(sequence);
            order.journal.clone_from(&self.journal);
            order.variables.clone_from(&self.variables);
            let place = self.place.unwrap_or(Place::BootEnvironment);
            let shared = std::cell::RefCell::new(&mut *self);
            let outcome =
                drive(&order, &mut Kept(&shared), &mut Machine { world: &shared, place }, &mut Heard(&shared));
            match outcome {
                Outcome::Finished(result, then) => {
                    self.off = then == Then::PowerOff;
                    return result;
                }
                Outcome::Restart(place) => {
                    self.place = Some(if self.never_starts { Place::BootEnvironment } else { place })
                }
                Outcome::Lost(error) => {
                    assert!(self.dead(), "{error}");
                    self.cut_at = None;
                    self.crashed = self.only_the_agent;
                }
            }
        }
        panic!("the run does not come to an end: {:#?}", self.journal);
    }
}

/// One boot of a machine whose journal is kept by somebody else.
pub(super) fn boot(
    world: &mut World,
    order: &RunOrder,
    journal: &mut dyn JournalStore,
    reporter: &mut dyn Reporter,
) -> Outcome {
    world.boots += 1;
    let place = world.place.unwrap_or(Place::BootEnvironment);
    world.journal.clone_from(&order.journal);
    world.keeps_no_journal = true;
    let shared = std::cell::RefCell::new(&mut *world);
    let outcome = drive(order, journal, &mut Machine { world: &shared, place }, reporter);
    if let Outcome::Restart(place) = &outcome {
        world.place = Some(*place);
    }
    outcome
}

pub(super) fn order(sequence: &Sequence) -> RunOrder {
    RunOrder {
        run: RunId::from("run-1"),
        sequence: sequence.clone(),
        version: sequence.version(),
        variables: BTreeMap::new(),
        images: vec![
            grant("debian-lab", false),
            grant("debian-tree", true),
            grant("windows-11", true),
            grant("drivers-latitude-5440", true),
            grant("drivers-optiplex-7010", true),
        ],
        machine: facts(),
        debug: false,
        journal: Vec::new(),
    }
}

fn grant(name: &str, tree: bool) -> ImageGrant {
    ImageGrant {
        reference: name.into(),
        name: name.into(),
        version: "aa".repeat(32),
        disk_bytes: 2 << 30,
        used_bytes: 1 << 30,
        tree,
    }
}

pub(super) fn facts() -> Facts {
    Facts {
        id: "machine-1".into(),
        name: "ws-1".into(),
        mac: Some("52:54:00:aa:00:01".into()),
        serial: Some("S1".into()),
        model: Some("Latitude 5440".into()),
        firmware: "uefi".into(),
        architecture: "x86_64".into(),
        memory_bytes: 4 << 30,
        processors: 2,
        disks: vec![disk()],
        ..Facts::default()
    }
}

fn disk() -> Disk {
    Disk { path: "/dev/vda".into(), bytes: DISK_BYTES, serial: None, model: None, rotational: false, removable: false }
}

type Shared<'a, 'b> = std::cell::RefCell<&'b mut World>;

struct Kept<'a, 'b>(&'a Shared<'a, 'b>);

impl JournalStore for Kept<'_, '_> {
    fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let mut world = self.0.borrow_mut();
        world.act().map_err(|error| JournalError::Appliance(error.message))?;
        world.journal.push(entry.clone());
        Ok(())
    }
}

struct Heard<'a, 'b>(&'a Shared<'a, 'b>);

impl Reporter for Heard<'_, '_> {
    fn entry(&mut self, entry: &Entry, _: Option<&Item>) {
        let mut world = self.0.borrow_mut();
        assert!(world.journal.contains(entry), "reported before it was kept: {entry:?}");
        world.reported.push(entry.clone());
    }

    fn line(&mut self, _: Line) {}

    fn progress(&mut self, _: StepProgress) {}

    fn answer(&mut self, _: &ItemId) -> Option<Value> {
        let mut world = self.0.borrow_mut();
        world.asked += 1;
        let asked = world.asked;
        world.answer.as_ref().filter(|(times, _)| asked > *times).map(|(_, answer)| answer.clone())
    }

    fn directive(&mut self) -> Directive {
        let world = self.0.borrow();
        let due = world.directives.iter().rev().find(|(from, _)| world.actions >= *from);
        due.map_or(Directive::Go, |(_, directive)| *directive)
    }
}

type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// An EFI program for x86-64, as far as one looks at it: where the PE header is, its signature, the machine.
pub(super) const EFI_PROGRAM: &[u8] =
    b"MZ__________________________________________________________\x40\0\0\0PE\0\0\x64\x86";

/// The files of a tree image.
fn tree_of(image: &str) -> &'static [(&'static str, &'static [u8])] {
    match image {
        "windows-11" => &[
            ("/Windows/Boot/BCD", b"regf"),
            ("/Windows/Boot/EFI/bootmgfw.efi", EFI_PROGRAM),
            ("/Windows/Boot/EFI/de-DE/bootmgfw.efi.mui", b"MZ"),
            ("/Windows/Boot/Fonts/segoe_slboot.ttf", b"font"),
        ],
        name if name.starts_with("drivers-") => &[("/net/e1d.INF", b"[Version]"), ("/net/e1d.sys", b"MZ")],
        _ => &[("/usr/bin/apt-get", b""), ("/etc/debian_version", b""), ("/usr/sbin/grub-install", b"")],
    }
}

/// What the programs do that the examples call; any other does nothing and says `out`.
fn perform(disk: &mut ScriptedDisk, arguments: &[&str]) -> (i32, String) {
    let files = &mut disk.files;
    let append = |files: &mut Files, path: &str, text: &str| {
        files.entry(path.to_owned()).or_insert_with(|| (Vec::new(), 0o644)).0.extend_from_slice(text.as_bytes());
    };
    let package = |name: &str| format!("/var/lib/dpkg/info/{name}.list");
    match arguments {
        ["make", path] => drop(files.insert((*path).to_owned(), (b"made".to_vec(), 0o644))),
        ["ssh-keygen", "-A"] => {
            files.insert("/etc/ssh/ssh_host_ed25519_key".into(), (b"key".to_vec(), 0o600));
        }
        ["useradd", .., name] => {
            append(files, "/etc/passwd", &format!("{name}:x:1000:1000::/home/{name}:/bin/bash\n"));
        }
        ["usermod", .., group, name] => append(files, "/etc/group", &format!("{group}:x:27:{name}\n")),
        ["dpkg-query", .., name] if !files.contains_key(&package(name)) => return (1, String::new()),
        ["dpkg-query", ..] => return (0, "installed 1.0".into()),
        ["apt-get", "install", _, _, names @ ..] => {
            names.iter().for_each(|name| append(files, &package(name), ""));
        }
        ["grub-install", "--target=i386-pc", ..] => disk.boot_code = "GRUB",
        ["grub-install", folder, ..] if folder.starts_with("--target=x86_64-efi") => {
            files.insert("/boot/efi/EFI/BOOT/BOOTX64.EFI".into(), (b"MZ".to_vec(), 0o755));
        }
        ["grub-mkconfig", "-o", menu] => {
            let fstab = files.get("/etc/fstab").map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned());
            let fstab = fstab.unwrap_or_default();
            let root = fstab.lines().find(|line| line.contains(" / ")).and_then(|line| line.split(' ').next());
            let text = format!("linux /vmlinuz root={}\n", root.unwrap_or_default());
            files.insert((*menu).to_owned(), (text.into_bytes(), 0o644));
        }
        [program, ..] if program.starts_with("mk") => make_file_system(disk, arguments),
        _ => {}
    }
    (0, "out\n".into())
}

/// What mke2fs and its like leave in a partition.
fn make_file_system(disk: &mut ScriptedDisk, arguments: &[&str]) {
    let kind = match arguments[0] {
        "mke2fs" => "ext4",
        "mkswap" => "swap",
        "mkntfs" => "ntfs",
        other => other.trim_start_matches("mkfs."),
    };
    let after = |flags: &[&str]| {
        let at = arguments.iter().position(|argument| flags.contains(argument));
        at.map(|at| arguments[at + 1].trim_start_matches("uuid=").to_owned()).unwrap_or_default()
    };
    let (mut uuid, label) = (after(&["-U", "-i", "-m"]), after(&["-L", "-n"]));
    if kind == "ntfs" {
        // It draws its serial number itself.
        uuid = "5EA1".into();
    }
    let partitions = disk.layout.as_mut().map(|layout| &mut layout.partitions);
    let path = arguments[arguments.len() - 1];
    if let Some(partition) = partitions.into_iter().flatten().find(|partition| partition.path == path) {
        partition.content = Content { kind: kind.into(), label, uuid, bytes: partition.bytes };
        disk.files.clear();
    }
}

struct Machine<'a, 'b> {
    world: &'a Shared<'a, 'b>,
    place: Place,
}

impl Host for Machine<'_, '_> {
    fn place(&self) -> Place {
        self.place
    }

    fn boot(&self) -> String {
        format!("boot-{}", self.world.borrow().boots)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_milliseconds(self.world.borrow().now)
    }

    fn sleep(&mut self, duration: Duration) {
        let mut world = self.world.borrow_mut();
        world.now += i64::try_from(duration.as_millis()).unwrap();
        // Directives are by actions: waiting counts as one.
        let _ = world.act();
    }

    fn hardware(&mut self) -> Result<Hardware, HostError> {
        let facts = facts();
        Ok(Hardware {
            memory_bytes: facts.memory_bytes,
            processors: facts.processors,
            firmware: facts.firmware,
            architecture: facts.architecture,
        })
    }

    fn disks(&mut self) -> Result<Vec<Disk>, HostError> {
        Ok(vec![disk()])
    }

    fn apply_image(&mut self, image: &ImageGrant, _: &Disk, watch: &mut dyn Watch) -> Result<Applied, HostError> {
        let mut applied = Applied { total_bytes: image.used_bytes, ..Applied::default() };
        for index in 0..IMAGE_CHUNKS {
            if self.world.borrow().disk.chunks.get(index) == Some(&7) {
                applied.kept_bytes += image.used_bytes / IMAGE_CHUNKS as u64;
                continue;
            }
            if let Some(why) = watch.must_stop(self.now()) {
                return Err(HostError::new(why));
            }
            let mut world = self.world.borrow_mut();
            world.act()?;
            world.disk.chunks.resize(IMAGE_CHUNKS, 0);
            world.disk.chunks[index] = 7;
            world.disk.files.clear();
            world.disk.files.insert("/usr/bin/apt-get".into(), (Vec::new(), 0o755));
            applied.written_bytes += image.used_bytes / IMAGE_CHUNKS as u64;
        }
        Ok(applied)
    }

    /// A file at a time, each of which a power cut may fall behind.
    fn apply_tree(
        &mut self,
        image: &ImageGrant,
        _: &Target,
        at: &str,
        _: &mut dyn Watch,
    ) -> Result<AppliedTree, HostError> {
        let mut applied = AppliedTree::default();
        for (path, content) in tree_of(&image.name) {
            let mut world = self.world.borrow_mut();
            applied.files += 1;
            let path = format!("{}{path}", at.trim_end_matches('/'));
            if world.disk.files.contains_key(&path) {
                continue;
            }
            world.act()?;
            world.disk.files.insert(path, (content.to_vec(), 0o755));
            applied.bytes.written_bytes += image.used_bytes / 2;
        }
        Ok(applied)
    }

    fn grow(&mut self, _: &Disk, _: &mut dyn Watch) -> Result<Option<Grown>, HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.disk.grown = true;
        Ok(Some(Grown {
            partition: "/dev/vda2".into(),
            file_system: "ext4".into(),
            before_bytes: 1,
            after_bytes: DISK_BYTES,
        }))
    }

    fn capture_image(&mut self, capture: &Capture, _: &Disk, _: &mut dyn Watch) -> Result<Captured, HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        let disk = world.disk.clone();
        world.captured.insert(capture.image.clone(), disk);
        world.act()?;
        Ok(Captured { number: 1, version: "bb".repeat(32), chunks: 4, ..Captured::default() })
    }

    fn wipe(&mut self, disk: &Disk, _: WipeMethod, _: &mut dyn Watch) -> Result<Wiped, HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.disk = ScriptedDisk::default();
        Ok(Wiped { bytes: disk.bytes, read_back_bytes: disk.bytes - world.unreadable_bytes })
    }

    fn test_hardware(&mut self, test: &HardwareTest, _: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
        self.world.borrow_mut().act()?;
        Ok(json!({ "memory": { "bytes": test.memory_bytes } }).as_object().unwrap().clone())
    }

    fn layout(&mut self, _: &Disk) -> Result<Option<Layout>, HostError> {
        Ok(self.world.borrow().disk.layout.clone())
    }

    /// The old content goes first, then the table comes: the power may go in between.
    fn partition(&mut self, disk: &Disk, table: &NewTable) -> Result<(), HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.disk = ScriptedDisk::default();
        world.act()?;
        let found = |placed: &super::layout::Placed| Found {
            number: placed.number,
            path: format!("{}{}", disk.path, placed.number),
            name: placed.name.clone(),
            purpose: placed.purpose.clone(),
            start: placed.start,
            bytes: placed.bytes,
            guid: None,
            content: Content::default(),
        };
        let partitions = table.partitions.iter().map(found).collect();
        world.disk.layout = Some(Layout { scheme: table.scheme, sector_bytes: 512, partitions });
        Ok(())
    }

    fn first_sector(&mut self, _: &Disk) -> Result<Vec<u8>, HostError> {
        let mut sector = self.world.borrow().disk.boot_code.as_bytes().to_vec();
        sector.resize(510, 0);
        sector.extend([0x55, 0xAA]);
        Ok(sector)
    }

    fn use_target(&mut self, target: &Target) -> Result<(), HostError> {
        if disk().is(&target.disk) { Ok(()) } else { Err(HostError::new("the disk is gone")) }
    }

    fn release_target(&mut self) -> Result<(), HostError> {
        Ok(())
    }

    fn read(&mut self, root: Root, path: &str) -> Result<Option<FoundFile>, HostError> {
        assert!(root == Root::Target || self.place == Place::InstalledSystem, "only the target is modelled");
        let world = self.world.borrow();
        Ok(world.disk.files.get(path).map(|(bytes, mode)| FoundFile { bytes: bytes.clone(), mode: Some(*mode) }))
    }

    fn list(&mut self, _: Root, path: &str) -> Result<Option<Vec<Listed>>, HostError> {
        let inside = format!("{}/", path.trim_end_matches('/'));
        let world = self.world.borrow();
        let names = world.disk.files.keys().filter_map(|file| file.strip_prefix(&inside));
        let mut listed: Vec<Listed> = names
            .map(|rest| match rest.split_once('/') {
                Some((folder, _)) => Listed { name: folder.to_owned(), is_folder: true },
                None => Listed { name: rest.to_owned(), is_folder: false },
            })
            .collect();
        listed.sort();
        listed.dedup();
        Ok((!listed.is_empty()).then_some(listed))
    }

    fn write(&mut self, _: Root, path: &str, content: &FileContent) -> Result<(), HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.disk.files.insert(path.to_owned(), (content.bytes.clone(), content.mode));
        Ok(())
    }

    fn remove(&mut self, _: Root, path: &str) -> Result<bool, HostError> {
        let mut world = self.world.borrow_mut();
        let inside = format!("{path}/");
        let gone = |name: &String| name == path || name.starts_with(&inside);
        if !world.disk.files.keys().any(gone) {
            return Ok(false);
        }
        world.act()?;
        world.disk.files.retain(|name, _| !gone(name));
        Ok(true)
    }

    fn variable(&mut self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.world.borrow().variables_of_firmware.get(name).cloned())
    }

    fn set_variable(&mut self, name: &str, value: &[u8]) -> Result<(), HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.variables_of_firmware.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    fn load_kernel(&mut self, kernel: &str, _: &str, command_line: &str) -> Result<(), HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.kernel = Some(format!("{kernel} {command_line}"));
        Ok(())
    }

    /// A program either has done all of its work or none of it; the power may go between its last deed and its end.
    fn command(&mut self, command: &Command, watch: &mut dyn Watch) -> Result<Exit, HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
        let codes = world.exits.get_mut(arguments[0]).filter(|codes| !codes.is_empty());
        let scripted = codes.map(|codes| codes.remove(0));
        *world.commands.entry(arguments.join(" ")).or_default() += 1;
        watch.line(Timestamp::from_milliseconds(world.now), "running");
        let (status, output) = perform(&mut world.disk, &arguments);
        world.act()?;
        Ok(Exit { status: scripted.unwrap_or(status), output, timed_out: false, stopped: false })
    }

    fn install_agent(&mut self, order: &RunOrder) -> Result<Map<String, Value>, HostError> {
        for path in ["/usr/bin/remint-agent", "/var/lib/remint/agent.json"] {
            let content = FileContent { bytes: order.run.0.clone().into_bytes(), mode: 0o755 };
            self.write(Root::Target, path, &content)?;
        }
        Ok(Map::new())
    }

    fn agent_is_installed(&mut self, _: &RunOrder) -> Result<bool, HostError> {
        Ok(self.world.borrow().disk.files.contains_key("/var/lib/remint/agent.json"))
    }

    fn secrets(&mut self, _: &RunId, item: &ItemId) -> Result<Values, HostError> {
        let mut world = self.world.borrow_mut();
        world.released.push(item.0.clone());
        Ok(world.secrets.clone())
    }

    fn install_baseline(&mut self, _: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        world.disk.baseline = true;
        Ok(json!({"packages": ["hello"]}).as_object().unwrap().clone())
    }

    fn hand_over(&mut self, _: &RunOrder, journal: &[Entry]) -> Result<(), HostError> {
        let mut world = self.world.borrow_mut();
        world.act()?;
        assert!(
            world.keeps_no_journal || journal == world.journal,
            "what is handed over is the journal as it was kept"
        );
        Ok(())
    }
}
