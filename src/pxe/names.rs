//! Names that clients ask for over TFTP, and GRUB over HTTP: scripts that are made for them, else the table of boot files.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::fleet::directory::Directory;
use crate::pxe::boot::{Boot, Config, decide};
use crate::pxe::client::{Client, Transport};
use crate::pxe::local::{BootFiles, Content};
use crate::pxe::menu::{Menu, menu_for};
use crate::pxe::quirks;
use crate::pxe::recorder::{Ended, Recorder};
use crate::pxe::script;
use crate::pxe::tftp::socket::Library;
use crate::stdx::mac::MacAddr;

/// What names and the boot routes are answered from.
#[derive(Clone)]
pub struct Netboot {
    pub directory: Arc<Directory>,
    pub config: Arc<Config>,
    pub files: Arc<BootFiles>,
    pub recorder: Arc<Recorder>,
    /// Our address, where a request does not say which of them it came to.
    pub address: Ipv4Addr,
}

/// A name, understood. No variant holds a path: what is not made is looked up in the table.
#[derive(PartialEq, Eq, Debug)]
enum Name<'a> {
    /// What iPXE runs first when it was loaded by TFTP under UEFI.
    Autoexec,
    /// GRUB's first configuration; it asks for that of its machine.
    GrubStart,
    /// The configuration of one machine.
    GrubMachine {
        cpu: &'a str,
        mac: Option<MacAddr>,
    },
    File(&'a str),
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> Name<'a> {
        let name = quirks::without_slashes_before(name);
        match name {
            quirks::IPXE_AUTOEXEC => return Name::Autoexec,
            name if quirks::is_grub_start(name) => return Name::GrubStart,
            _ => {}
        }
        let machine = name.strip_prefix("grub/machine/").and_then(|rest| rest.strip_suffix(".cfg")?.split_once('/'));
        match machine {
            Some((cpu, mac)) => Name::GrubMachine { cpu, mac: mac.parse().ok() },
            // GRUB names files as over HTTP, whichever way it came.
            None => Name::File(name.strip_prefix("boot/files/").unwrap_or(name)),
        }
    }
}

impl Netboot {
    /// What a client gets for `name`; `server` is the address that it used to reach us.
    pub fn content(&self, name: &str, server: Ipv4Addr) -> Option<Content> {
        let text = match Name::parse(name) {
            Name::File(name) => return self.files.content(name),
            Name::Autoexec => script::autoexec(&self.config, server),
            Name::GrubStart => script::GRUB_START.to_owned(),
            Name::GrubMachine { cpu, mac } => {
                let client = Client::from_grub(mac, cpu);
                let (boot, menu) = self.next(&client);
                tracing::info!(?mac, firmware = %client.firmware, menu = menu.is_some(), "grub: {boot:?}");
                match menu {
                    Some(menu) => {
                        self.recorder.menu(mac);
                        script::menu::grub_menu(menu, &client, &boot, &self.config, server)
                    }
                    None => {
                        self.recorder.script(mac, &boot);
                        script::grub(&boot, &client, &self.config, server)
                    }
                }
            }
        };
        Some(text.into_bytes().into())
    }

    /// What a client's script is to do, and the menu that is shown first, if any.
    pub fn next(&self, client: &Client) -> (Boot, Option<&Menu>) {
        let (mac, uuid) = (client.mac, client.uuid.as_deref());
        let assignment = self.directory.assignment(mac, uuid);
        let boot = decide(client, &assignment, &self.config);
        let collections = self.directory.collections(mac, uuid);
        let menu = menu_for(&self.config.menus, mac, &collections, &assignment);
        let is_answered = !matches!(boot, Boot::Nothing(_));
        (boot, menu.filter(|_| is_answered))
    }
}

/// What the TFTP sockets serve, with an eye on what becomes of it.
pub fn tftp_lookup(netboot: Netboot) -> Arc<dyn Library> {
    Arc::new(netboot)
}

impl Library for Netboot {
    fn content(&self, name: &str, client: Ipv4Addr) -> Option<Content> {
        let content = Netboot::content(self, name, self.address);
        let ended = if content.is_some() { Ended::Asked } else { Ended::Missing };
        self.recorder.file(client, shown(name), Transport::Tftp, ended);
        content
    }

    fn ended(&self, name: &str, client: Ipv4Addr, ended: Ended) {
        self.recorder.file(client, shown(name), Transport::Tftp, ended);
    }
}

/// A name as the record has it, whichever way it was asked for.
pub fn shown(name: &str) -> &str {
    let name = quirks::without_slashes_before(name);
    name.strip_prefix("boot/files/").unwrap_or(name)
}

#[cfg(test)]
impl Netboot {
    /// No files, nobody known.
    pub(super) fn for_tests() -> Netboot {
        Netboot {
            directory: Arc::default(),
            config: Arc::default(),
            files: Arc::new(BootFiles::open(std::path::Path::new("/nonexistent")).unwrap()),
            recorder: Arc::new(Recorder::new(Arc::new(crate::stdx::time::SystemClock))),
            address: Ipv4Addr::new(10, 0, 0, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_whatever_slashes_come_before_them() {
        let mac = Some(MacAddr([0x52, 0x54, 0, 0xaa, 0, 1]));
        for (name, expect) in [
            ("autoexec.ipxe", Name::Autoexec),
            ("/grub/grub.cfg", Name::GrubStart),
            ("grub/grub.cfg-01-52-54-00-aa-00-01", Name::GrubStart),
            ("/grub/machine/x86_64/52:54:00:aa:00:01.cfg", Name::GrubMachine { cpu: "x86_64", mac }),
            ("/grub/machine/arm64/.cfg", Name::GrubMachine { cpu: "arm64", mac: None }),
            ("/boot/files/vmlinuz", Name::File("vmlinuz")),
            ("//grubx64.efi", Name::File("grubx64.efi")),
            ("grub/x86_64-efi/command.lst", Name::File("grub/x86_64-efi/command.lst")),
            ("../../etc/passwd", Name::File("../../etc/passwd")),
        ] {
            assert_eq!(Name::parse(name), expect, "{name}");
        }
    }
}
