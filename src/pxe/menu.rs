//! The boot menu: one model, which `script` writes down for iPXE and for GRUB.
//!
//! A menu is shown to machines for which nothing waits; one in the middle of a run goes on without it. Its password keeps
//! hands off at the keyboard of a machine: what the entries load can be had by anybody on the network.

use crate::fleet::directory::Assignment;
use crate::pxe::boot::{Boot, boot_environment};
use crate::pxe::client::{Client, Firmware};
use crate::pxe::password::Password;
use crate::stdx::mac::MacAddr;

/// What makes the boot environment test the machine before it checks in.
pub const TEST_HARDWARE: &str = "remint.test=hardware";

/// Plain data, filled from the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Menu {
    pub of: Of,
    /// Until the default is taken; 0 waits for a person.
    pub seconds: u32,
    /// Name of an entry.
    pub default: String,
    pub entries: Vec<Entry>,
    /// Asked for before any entry but the default.
    pub password: Option<Password>,
}

/// Which machines see a menu.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Of {
    Machine(MacAddr),
    Collection(String),
    Everybody,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: String,
    pub title: String,
    pub action: Action,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// What the machine would start without a menu.
    Usual,
    /// The boot environment, where it checks in and waits for approval and for a deployment.
    Deploy,
    LocalDisk,
    HardwareTest,
    MemoryTest,
    /// Another system's installer or rescue system: names of added files.
    Linux {
        kernel: String,
        initrd: Option<String>,
        arguments: String,
    },
    /// An EFI program: name of an added file.
    Efi {
        file: String,
    },
}

/// The entries that need nothing but what is there.
pub const BUILT_IN: [(&str, &str, Action); 5] = [
    ("continue", "Go on as usual", Action::Usual),
    ("deploy", "Deploy: check in and wait for approval", Action::Deploy),
    ("local-disk", "Start from the local disk", Action::LocalDisk),
    ("hardware-test", "Test the hardware, then check in", Action::HardwareTest),
    ("memory-test", "Test the memory (Memtest86+, needs Secure Boot off)", Action::MemoryTest),
];

/// What an entry starts, by names below `/boot/files`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// What [`decide`](crate::pxe::boot::decide) may give as well.
    Boot(Boot),
    Kernel {
        kernel: String,
        initrd: Option<String>,
        /// With the words that the boot environment must be told, where it is that.
        arguments: String,
        is_boot_environment: bool,
    },
    Efi(String),
    /// Memtest86+, a kernel to BIOS and a program to UEFI. It is told of the serial port that is configured for consoles.
    MemoryTest(&'static str),
}

/// The menu of this machine: its own, that of a collection, everybody's.
pub fn menu_for<'a>(
    menus: &'a [Menu],
    mac: Option<MacAddr>,
    collections: &[String],
    assignment: &Assignment,
) -> Option<&'a Menu> {
    if matches!(assignment, Assignment::BootEnvironment { .. }) {
        return None;
    }
    let find = |fits: &dyn Fn(&Of) -> bool| menus.iter().find(|menu| fits(&menu.of));
    find(&|of| matches!(of, Of::Machine(own) if Some(*own) == mac))
        .or_else(|| find(&|of| matches!(of, Of::Collection(name) if collections.contains(name))))
        .or_else(|| find(&|of| *of == Of::Everybody))
}

impl Menu {
    /// The entries that this firmware can start.
    pub fn entries_for<'a>(&'a self, client: &'a Client, usual: &'a Boot) -> impl Iterator<Item = (&'a Entry, Start)> {
        self.entries.iter().filter_map(move |entry| Some((entry, entry.action.start(client, usual)?)))
    }

    pub fn is_open(&self, entry: &Entry) -> bool {
        self.password.is_none() || entry.name == self.default
    }

    /// What is started where somebody has chosen `name`. `None` where that is none of the entries, or the password is wrong.
    pub fn chosen(&self, name: &str, password: &str, client: &Client, usual: &Boot) -> Option<Start> {
        let (entry, start) = self.entries_for(client, usual).find(|(entry, _)| entry.name == name)?;
        let admitted = self.is_open(entry) || self.password.as_ref().is_some_and(|known| known.is(password));
        admitted.then_some(start)
    }
}

impl Action {
    fn start(&self, client: &Client, usual: &Boot) -> Option<Start> {
        let bios = client.firmware == Firmware::Bios;
        let environment = |words: &str| match boot_environment(client.firmware) {
            Boot::BootEnvironment { kernel, initrd } => Some(Start::Kernel {
                kernel: kernel.to_owned(),
                initrd: Some(initrd.to_owned()),
                arguments: words.to_owned(),
                is_boot_environment: true,
            }),
            _ => None,
        };
        let added = |name: &str| format!("added/{name}");
        match self {
            Action::Usual => Some(Start::Boot(usual.clone())),
            Action::Deploy => environment(""),
            Action::HardwareTest => environment(TEST_HARDWARE),
            Action::LocalDisk => Some(Start::Boot(Boot::LocalDisk)),
            Action::MemoryTest => match client.firmware {
                Firmware::Bios => Some(Start::MemoryTest("memtest.bin")),
                Firmware::UefiX64 => Some(Start::MemoryTest("memtest.efi")),
                Firmware::UefiIa32 => Some(Start::MemoryTest("memtest-ia32.efi")),
                Firmware::UefiArm64 | Firmware::Other(_) => None,
            },
            Action::Linux { kernel, initrd, arguments } => Some(Start::Kernel {
                kernel: added(kernel),
                initrd: initrd.as_deref().map(added),
                arguments: arguments.clone(),
                is_boot_environment: false,
            }),
            Action::Efi { file } => (!bios).then(|| Start::Efi(added(file))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn menu(of: Of, password: Option<&str>) -> Menu {
        let entries = BUILT_IN.map(|(name, title, action)| Entry { name: name.into(), title: title.into(), action });
        let password = password.map(|text| text.parse().unwrap());
        Menu { of, seconds: 10, default: "continue".into(), entries: entries.into(), password }
    }

    #[test]
    fn a_machines_own_menu_goes_before_its_collections_and_everybodys() {
        let mac = MacAddr([2; 6]);
        let menus = [Of::Everybody, Of::Collection("bench".into()), Of::Machine(mac)].map(|of| menu(of, None));
        let disk = Assignment::LocalDisk { machine: "m".into() };
        let of = |mac, collections: &[String]| &menu_for(&menus, mac, collections, &disk).unwrap().of;
        assert_eq!(of(Some(mac), &["bench".into()]), &menus[2].of);
        assert_eq!(of(None, &["bench".into()]), &menus[1].of);
        assert_eq!(of(None, &["other".into()]), &menus[0].of);
        let waits = Assignment::BootEnvironment { machine: "m".into() };
        assert!(menu_for(&menus, Some(mac), &[], &waits).is_none(), "a run goes on without a menu");
    }

    #[test]
    fn only_the_default_is_open_without_the_password() {
        let menu = menu(Of::Everybody, Some(crate::pxe::password::tests::SESAME));
        let client = Client::from_ipxe(None, None, "x86_64", "efi");
        let chosen = |name, password| menu.chosen(name, password, &client, &Boot::LocalDisk);
        assert_eq!(chosen("continue", ""), Some(Start::Boot(Boot::LocalDisk)));
        assert_eq!(chosen("memory-test", ""), None);
        assert_eq!(chosen("memory-test", "wrong"), None);
        assert_eq!(chosen("memory-test", "sesame"), Some(Start::MemoryTest("memtest.efi")));
        assert_eq!(chosen("no-such", "sesame"), None);
    }

    #[test]
    fn entries_that_a_firmware_cannot_start_are_left_out() {
        let menu = menu(Of::Everybody, None);
        let names = |client: &Client| menu.entries_for(client, &Boot::LocalDisk).map(|(e, _)| e.name.clone()).collect();
        let arm: Vec<String> = names(&Client::from_grub(None, "arm64"));
        assert_eq!(arm, ["continue", "deploy", "local-disk", "hardware-test"]);
        let bios: Vec<String> = names(&Client::from_ipxe(None, None, "i386", "pcbios"));
        assert_eq!(bios.len(), 5);
    }
}
