//! `install-bootloader`: makes the system on the disk start by itself. What it does for Windows is in `windows_boot`.

use serde::Deserialize;

use crate::tasksequence::fstab;
use crate::tasksequence::host::{Disk, FileContent, Root};
use crate::tasksequence::layout::{Mount, Scheme, Target};

use super::create_user::run;
use super::windows_boot;
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
};

pub(super) const ROW: Row = Row {
    name: "install-bootloader",
    summary: "makes the system on the disk start by itself",
    text: "With the programs of that system itself, run within it: GRUB's packages, or systemd-boot, must be installed there. \
           For BIOS or for UEFI, as the machine was started. First the file systems that `format` made are written into \
           /etc/fstab by UUID; its other lines stay. For UEFI the loader is put where firmware looks on a disk without being \
           told (EFI/BOOT/BOOTX64.EFI); entries in the firmware are the business of `set-boot-order`. The boot sector or the \
           loader's file, and that the menu names the root by its UUID, are read back. `windows` is Windows' own boot manager: \
           the files of Windows/Boot/EFI, Fonts and Resources go to EFI/Microsoft/Boot, and bootmgfw.efi to EFI/Boot as well; \
           each is read back. Its store of boot entries (BCD) is not made, only copied from `bcd`; one that is on the EFI \
           system partition already stays, and the evidence says when there is none (see docs/windows.md).",
    parameters: &[
        optional(
            "loader",
            Kind::Choice(&["grub", "systemd-boot", "windows"]),
            "grub",
            "the boot loader; systemd-boot and windows for UEFI only",
        ),
        optional("arguments", Kind::Texts, "", "further arguments for the kernel, such as `console=ttyS0`"),
        optional("wait", Kind::Integer { min: 0, max: 60 }, "0", "seconds for which the menu is shown"),
        optional("bcd", Kind::Path, "", "for windows: a store of boot entries in the system, which is copied"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- install-bootloader:\n    arguments: [console=tty0, console=ttyS0]\n",
    load: load::<InstallBootloader>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallBootloader {
    #[serde(default)]
    loader: Loader,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    wait: u32,
    bcd: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Loader {
    #[default]
    Grub,
    SystemdBoot,
    Windows,
}

impl Loader {
    fn name(self) -> &'static str {
        match self {
            Loader::Grub => "grub",
            Loader::SystemdBoot => "systemd-boot",
            Loader::Windows => "windows",
        }
    }

    /// As a sentence has it.
    fn title(self) -> &'static str {
        match self {
            Loader::Grub => "GRUB",
            Loader::SystemdBoot => "systemd-boot",
            Loader::Windows => "Windows' boot manager",
        }
    }

    fn no_bios(self) -> StepError {
        StepError::new(format!("{} starts no machine by BIOS", self.title())).hint(match self {
            Loader::Windows => "switch the machine's firmware to UEFI",
            _ => "use `loader: grub`",
        })
    }
}

const FSTAB: &str = "/etc/fstab";
/// Read by grub-mkconfig beside /etc/default/grub.
const GRUB_SETTINGS: &str = "/etc/default/grub.d/remint.cfg";
/// Where UEFI firmware of x86-64 looks on a disk that it knows nothing about (UEFI 2.10, 3.5.1.1).
const FALLBACK: &str = "EFI/BOOT/BOOTX64.EFI";

impl InstallBootloader {
    /// They end up in a file that a shell reads, so what a shell would take for its own is refused.
    fn valid(&self) -> Result<(), StepError> {
        if self.loader == Loader::Windows && (!self.arguments.is_empty() || self.wait > 0) {
            return Err(StepError::new("`arguments` and `wait` are for Linux")
                .hint("Windows has them in its store of boot entries: `bcdedit /timeout` on Windows"));
        }
        if self.loader != Loader::Windows && self.bcd.is_some() {
            return Err(StepError::new("`bcd` is for `loader: windows`"));
        }
        let bad =
            |text: &&String| text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic() && !"\"'`$\\".contains(c));
        match self.arguments.iter().find(bad) {
            Some(text) => Err(StepError::new(format!("`{text}` is no argument for a kernel"))
                .hint("one argument an entry, without blanks and quotes")),
            None => Ok(()),
        }
    }

    fn grub(&self, on: &mut On, disk: &Disk, target: &Target, uefi: bool) -> Result<(), StepError> {
        let names = Names::of(on)?;
        let arguments = self.arguments.join(" ");
        let settings = format!(
            "# Written by Remint.\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {arguments}\"\nGRUB_TIMEOUT={0}\nGRUB_RECORDFAIL_TIMEOUT={0}\n",
            self.wait
        );
        on.host.write(Root::Target, GRUB_SETTINGS, &text(settings))?;
        if uefi {
            let folder = format!("--efi-directory={}", esp(target)?.at);
            run(on, &[names.install, "--target=x86_64-efi", &folder, "--removable", "--no-nvram"])?;
        } else {
            room_for_grub(on, disk)?;
            run(on, &[names.install, "--target=i386-pc", &disk.path])?;
        }
        run(on, &[names.configure, "-o", names.menu]).map(drop)
    }

    fn systemd_boot(&self, on: &mut On, target: &Target) -> Result<(), StepError> {
        let (at, root) = (esp(target)?.at.clone(), target.root().ok_or_else(no_root)?.uuid.clone());
        run(on, &["bootctl", "install", &format!("--esp-path={at}"), "--no-variables"])?;
        let (kernel, initrd) = newest_kernel(on)?;
        let folder = format!("{at}/remint");
        run(on, &["mkdir", "-p", &folder])?;
        run(on, &["cp", &kernel, &format!("{folder}/linux")])?;
        run(on, &["cp", &initrd, &format!("{folder}/initrd")])?;
        let options = self.arguments.join(" ");
        let entry =
            format!("title Linux\nlinux /remint/linux\ninitrd /remint/initrd\noptions root=UUID={root} ro {options}\n");
        on.host.write(Root::Target, &format!("{at}/loader/entries/remint.conf"), &text(entry))?;
        let settings = format!("default remint.conf\ntimeout {}\n", self.wait);
        on.host.write(Root::Target, &format!("{at}/loader/loader.conf"), &text(settings))?;
        Ok(())
    }

    fn verify_grub(&self, on: &mut On, disk: &Disk, target: &Target, uefi: bool) -> Result<(), StepError> {
        let menu = Names::of(on)?.menu;
        let read = on.host.read(Root::Target, menu)?.map(|content| content.bytes).unwrap_or_default();
        let read = String::from_utf8_lossy(&read);
        if !read.contains("linux")
            || target.root().is_some_and(|root| !read.contains(&format!("root=UUID={}", root.uuid)))
        {
            return Err(StepError::new(format!(
                "{menu} starts no system whose root is on the disk that was formatted"
            ))
            .hint("is a kernel installed in the system, and its initramfs with it?"));
        }
        if uefi {
            return Ok(());
        }
        let sector = on.host.first_sector(disk)?;
        let has = |words: &[u8]| sector.windows(words.len()).any(|window| window == words);
        if sector.len() < 512 || sector[510..512] != [0x55, 0xAA] || !has(b"GRUB") {
            return Err(StepError::new(format!("the first sector of {} is not GRUB's", disk.path)));
        }
        Ok(())
    }
}

/// The programs and files of GRUB, whose names differ between distributions.
struct Names {
    install: &'static str,
    configure: &'static str,
    menu: &'static str,
}

impl Names {
    fn of(on: &mut On) -> Result<Names, StepError> {
        for (folder, install, configure, menu) in [
            ("/usr/sbin", "grub-install", "grub-mkconfig", "/boot/grub/grub.cfg"),
            ("/usr/sbin", "grub2-install", "grub2-mkconfig", "/boot/grub2/grub.cfg"),
        ] {
            if on.host.read(Root::Target, &format!("{folder}/{install}"))?.is_some() {
                return Ok(Names { install, configure, menu });
            }
        }
        Err(StepError::new("the system on the disk has no grub-install")
            .hint("put the packages grub2-common and grub-pc-bin (BIOS) or grub-efi-amd64-bin (UEFI) into its image"))
    }
}

/// GRUB's core needs a partition of its own in a GPT.
fn room_for_grub(on: &mut On, disk: &Disk) -> Result<(), StepError> {
    let layout = on.host.layout(disk)?;
    let missing = layout.is_some_and(|layout| {
        layout.scheme == Scheme::Gpt && !layout.partitions.iter().any(|one| one.purpose == "bios-boot")
    });
    if missing {
        return Err(StepError::new(format!("{} has a GPT and no partition of type `bios-boot`", disk.path)).hint(
            "this machine was started by BIOS: add `{ name: bios, type: bios-boot, size: 1MiB }` to `partition-disk`",
        ));
    }
    Ok(())
}

fn esp(target: &Target) -> Result<&Mount, StepError> {
    const PLACES: [&str; 3] = ["/boot/efi", "/efi", "/boot"];
    let found = target.mounts.iter().find(|mount| mount.kind == "fat" && PLACES.contains(&mount.at.as_str()));
    found.ok_or_else(|| {
        StepError::new("this machine was started by UEFI, and no FAT file system is at /boot/efi")
            .hint("add a partition of type `esp`, and to `format` one with `type: fat, at: /boot/efi`")
    })
}

fn no_root() -> StepError {
    StepError::new("no file system that `format` made is the root").hint("add one with `at: /` to `format`")
}

fn text(content: String) -> FileContent {
    FileContent { bytes: content.into_bytes(), mode: 0o644 }
}

/// The kernel with the highest version in /boot, and its initramfs.
fn newest_kernel(on: &mut On) -> Result<(String, String), StepError> {
    let listed = run(on, &["find", "/boot", "-maxdepth", "1", "-name", "vmlinuz-*"])?.output;
    let newest =
        listed.lines().filter_map(|line| line.trim().strip_prefix("/boot/vmlinuz-")).max_by_key(|name| numbers(name));
    let version = newest.ok_or_else(|| StepError::new("there is no kernel in /boot"))?;
    for initrd in [format!("/boot/initrd.img-{version}"), format!("/boot/initramfs-{version}.img")] {
        if on.host.read(Root::Target, &initrd).map_or(true, |found| found.is_some()) {
            return Ok((format!("/boot/vmlinuz-{version}"), initrd));
        }
    }
    Err(StepError::new(format!("the kernel {version} has no initramfs in /boot")))
}

/// The numbers in a version, by which versions are ordered.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

impl Work for InstallBootloader {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        self.valid()?;
        if self.loader != Loader::Grub && view.facts.firmware == "bios" {
            return Err(self.loader.no_bios());
        }
        let firmware =
            if view.facts.firmware.is_empty() { "the firmware".to_owned() } else { view.facts.firmware.to_uppercase() };
        let fstab = if self.loader == Loader::Windows { "" } else { "write /etc/fstab and " };
        Ok(Planned::new(format!("{fstab}install {} for {firmware}", self.loader.title())))
    }

    /// Only the loader's own program knows whether all of it is in place, and running that again is harmless.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let (target, disk, uefi) = surroundings(on)?;
        if target.root().is_some() && self.loader != Loader::Windows {
            let before = on.host.read(Root::Target, FSTAB)?.map(|content| content.bytes).unwrap_or_default();
            on.host.write(Root::Target, FSTAB, &text(fstab::with(&String::from_utf8_lossy(&before), &target)))?;
        }
        match self.loader {
            Loader::Grub => self.grub(on, &disk, &target, uefi)?,
            Loader::SystemdBoot if uefi => self.systemd_boot(on, &target)?,
            Loader::Windows if uefi => windows_boot::install(on, &target, &esp(&target)?.at, self.bcd.as_deref())?,
            other => return Err(other.no_bios()),
        }
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let (target, disk, uefi) = surroundings(on)?;
        if self.loader == Loader::Windows {
            windows_boot::verify(on, &esp(&target)?.at, self.bcd.as_deref(), done)?;
        } else if uefi {
            let path = format!("{}/{FALLBACK}", esp(&target)?.at);
            let program = on.host.read(Root::Target, &path)?.map(|content| content.bytes).unwrap_or_default();
            if !program.starts_with(b"MZ") {
                return Err(StepError::new(format!("{path} is no EFI program after the boot loader was installed")));
            }
            done.evidence("program", path);
            done.evidence("program_bytes", program.len() as u64);
        }
        if self.loader == Loader::Grub {
            self.verify_grub(on, &disk, &target, uefi)?;
        }
        done.evidence("loader", self.loader.name());
        done.evidence("firmware", if uefi { "uefi" } else { "bios" });
        done.evidence("disk", disk.path.as_str());
        if let Some(root) = target.root() {
            done.evidence("root", root.uuid.as_str());
        }
        Ok(())
    }
}

/// The system, the disk that it starts from, and whether by UEFI.
fn surroundings(on: &mut On) -> Result<(Target, Disk, bool), StepError> {
    let target = on.target.cloned().ok_or_else(no_root)?;
    let disks = on.host.disks()?;
    let disk = disks.iter().find(|disk| disk.is(&target.disk)).cloned();
    let disk =
        disk.ok_or_else(|| StepError::new(format!("the disk {} that holds the system is gone", target.disk.path)))?;
    let uefi = on.host.hardware()?.firmware == "uefi";
    Ok((target, disk, uefi))
}
