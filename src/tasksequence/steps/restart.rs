//! `restart`: into the installed system or the boot environment, and on from there.

use serde::Deserialize;

use crate::tasksequence::host::{Place, Root};
use crate::tasksequence::journal::What;

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "restart",
    summary: "restarts the machine, and the run goes on there",
    text: "The appliance is told first what the machine is to boot. The step is over once the machine has come up where it was \
           sent; a machine that keeps coming up elsewhere fails it.",
    parameters: &[
        optional("into", Kind::Choice(&["installed-system", "boot-environment"]), "installed-system", "what to start"),
        optional(
            "by",
            Kind::Choice(&["firmware", "kexec"]),
            "firmware",
            "`kexec` starts the installed system's kernel at once, without the minutes that some firmware takes; where that \
             is not possible the machine restarts as always",
        ),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Place,
    erases: false,
    example: "- restart:\n    into: installed-system\n",
    load: load::<Restart>,
};

/// How often a machine may come up in the wrong place.
const TRIES_MAX: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    #[serde(default = "usual")]
    into: Place,
    #[serde(default)]
    by: By,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    #[default]
    Firmware,
    Kexec,
}

fn usual() -> Place {
    Place::InstalledSystem
}

impl Work for Restart {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new(format!("restart into the {}", self.into.words())))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        let restarted = on.started_in.as_ref().is_some_and(|boot| *boot != on.host.boot());
        if restarted && on.host.place() == self.into {
            return Ok(Check::Holds);
        }
        if restarted && starts(on) > TRIES_MAX {
            let (wanted, came) = (self.into.words(), on.host.place().words());
            return Err(StepError::new(format!(
                "the machine was sent into the {wanted} {TRIES_MAX} times and came up in the {came}"
            ))
            .hint("look at its boot order, and whether the image boots with this firmware"));
        }
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        if self.by == By::Kexec && self.into == Place::InstalledSystem && on.host.place() == Place::BootEnvironment {
            match load_kernel(on) {
                Ok(kernel) => on.line(&format!("{kernel} is started without the firmware")),
                Err(error) => on.line(&format!("no kexec, the firmware restarts the machine: {error}")),
            }
        }
        on.line(&format!("restarting into the {}", self.into.words()));
        Ok(Done { restart_now: Some(self.into), ..Done::default() })
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        done.evidence("place", on.host.place().name());
        done.evidence("boot", on.host.boot());
        Ok(())
    }
}

/// Has the kernel that the boot loader of the system on the disk would start taken in; its path.
fn load_kernel(on: &mut On) -> Result<String, StepError> {
    for menu in ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"] {
        let Some(content) = on.host.read(Root::Target, menu)? else { continue };
        let text = String::from_utf8_lossy(&content.bytes).into_owned();
        let Some(entry) = first_entry(&text) else { continue };
        let kernel = within(on, &entry.kernel)?;
        let initramfs = within(on, &entry.initramfs)?;
        on.host.load_kernel(&kernel, &initramfs, &entry.arguments)?;
        return Ok(kernel);
    }
    Err(StepError::new("no boot loader's menu on the disk says which kernel to start"))
}

/// A menu's paths are those of the file system that it lies in, which may be that of /boot.
fn within(on: &mut On, path: &str) -> Result<String, StepError> {
    for candidate in [path.to_owned(), format!("/boot{path}")] {
        // A file that is too large to be read is there.
        if on.host.read(Root::Target, &candidate).map_or(true, |found| found.is_some()) {
            return Ok(candidate);
        }
    }
    Err(StepError::new(format!("{path} is not on the disk")))
}

#[derive(Debug, PartialEq)]
struct MenuEntry {
    kernel: String,
    arguments: String,
    initramfs: String,
}

/// What a GRUB menu starts first: its first `linux` line, and the `initrd` line after it.
fn first_entry(menu: &str) -> Option<MenuEntry> {
    let mut lines = menu.lines().map(str::trim).skip_while(|line| !line.starts_with("linux"));
    let mut words = lines.next()?.split_whitespace().skip(1);
    let kernel = words.next()?.to_owned();
    let arguments = words.collect::<Vec<_>>().join(" ");
    let initrd = lines.find(|line| line.starts_with("initrd"))?;
    let initramfs = initrd.split_whitespace().nth(1)?.to_owned();
    // A menu with variables is a program, which only GRUB can run.
    let plain = ![&kernel, &arguments, &initramfs].iter().any(|text| text.contains('$'));
    plain.then_some(MenuEntry { kernel, arguments, initramfs })
}

/// How often this step has been started since anything else happened.
fn starts(on: &On) -> usize {
    on.journal.iter().rev().take_while(|entry| matches!(entry.what, What::Started { .. })).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_a_menu_is_what_is_started() {
        let menu = "set timeout=0\nmenuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6.1 root=UUID=r ro quiet\n\tinitrd\t/boot/initrd.img-6.1\n}\n";
        let entry = first_entry(menu).unwrap();
        assert_eq!((entry.kernel.as_str(), entry.arguments.as_str()), ("/boot/vmlinuz-6.1", "root=UUID=r ro quiet"));
        assert_eq!(entry.initramfs, "/boot/initrd.img-6.1");
        assert_eq!(first_entry("linux $kernel x\ninitrd /i\n"), None);
        assert_eq!(first_entry("chainloader +1\n"), None);
    }
}
