//! The one table of network boot.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::fleet::directory::Assignment;
use crate::pxe::client::{Client, Firmware, Stage, Transport};
use crate::pxe::menu::Menu;
use crate::stdx::mac::MacAddr;

/// What firmware loads first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// iPXE first, because it is faster; shim for HTTP Boot, and for a machine whose firmware did not start iPXE.
    #[default]
    Auto,
    /// Fast, scriptable, not signed by Microsoft: needs Secure Boot switched off.
    Ipxe,
    /// shim and GRUB: boots with Secure Boot on and the firmware's own keys.
    Shim,
}

/// What earlier boots of a machine teach about its firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Past {
    #[default]
    Nothing,
    /// It loaded an unsigned program whole and did not start it: Secure Boot is on.
    UnsignedDidNotStart,
}

/// What a machine boots that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// It checks in, shows its pairing code and waits for approval.
    #[default]
    BootEnvironment,
    /// It goes on to its own disk.
    LocalDisk,
    /// It is not answered at all.
    Ignore,
}

/// Everything that decides a boot besides the machine. Plain data, filled from the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Port of plain HTTP for boot files and scripts. Default 80.
    pub http_port: u16,
    /// Port of HTTPS, told to the boot environment. Default 443.
    pub https_port: u16,
    /// SHA-256 of the site's authority (DER) in hexadecimal, told to the boot environment so that it can pin it.
    pub authority_sha256: String,
    /// Added to the kernel's command line. Default: screen and first serial port.
    pub kernel_arguments: String,
    pub unknown: Unknown,
    /// The boot program of UEFI machines. BIOS machines know no Secure Boot and always get iPXE.
    pub program: Program,
    /// Another boot program for single machines.
    pub program_of: BTreeMap<MacAddr, Program>,
    /// Another boot program for models: part of the name, in lower case. The first that fits counts; a single machine's
    /// own goes before it.
    pub program_of_model: Vec<(String, Program)>,
    /// The first that is meant for a machine is shown to it.
    pub menus: Vec<Menu>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            http_port: 80,
            https_port: 443,
            authority_sha256: String::new(),
            kernel_arguments: "console=tty0 console=ttyS0,115200".into(),
            unknown: Unknown::default(),
            program: Program::default(),
            program_of: BTreeMap::new(),
            program_of_model: Vec::new(),
            menus: Vec::new(),
        }
    }
}

impl Config {
    /// What was written for this machine or its model.
    fn program_for(&self, client: &Client) -> Option<Program> {
        let own = client.mac.and_then(|mac| self.program_of.get(&mac)).copied();
        let model = client.model.as_ref().map(|model| model.to_lowercase());
        let of_model = || {
            let model = model?;
            self.program_of_model.iter().find(|(part, _)| model.contains(part.as_str())).map(|(_, program)| *program)
        };
        own.or_else(of_model)
    }

    /// `http://10.0.0.1`, with the port where it is not 80.
    pub fn http_base(&self, server: Ipv4Addr) -> String {
        match self.http_port {
            80 => format!("http://{server}"),
            port => format!("http://{server}:{port}"),
        }
    }

    /// `https://10.0.0.1:443`.
    pub fn https_base(&self, server: Ipv4Addr) -> String {
        format!("https://{server}:{}", self.https_port)
    }
}

/// What a machine is given next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Boot {
    /// A file that the firmware runs, by its name in the table of boot files.
    Program(&'static str),
    /// The URL of its own script.
    Script,
    /// Kernel and initramfs, by their names in the table of boot files.
    BootEnvironment {
        kernel: &'static str,
        initrd: &'static str,
    },
    LocalDisk,
    /// No answer, for this reason.
    Nothing(&'static str),
}

/// What `client` is given next. Firmware and iPXE get the same first steps whatever is assigned, because only a script
/// can send a machine to its own disk reliably (docs/boot.md, "going on to the disk").
pub fn decide(client: &Client, assignment: &Assignment, config: &Config) -> Boot {
    if *assignment == Assignment::Unknown && config.unknown == Unknown::Ignore {
        return Boot::Nothing("the machine is unknown and unknown machines are ignored here");
    }
    match client.stage {
        Stage::Firmware => program(client, config),
        Stage::Ipxe => Boot::Script,
        Stage::Script | Stage::Grub => match (assignment, config.unknown) {
            (Assignment::LocalDisk { .. }, _) | (Assignment::Unknown, Unknown::LocalDisk) => Boot::LocalDisk,
            _ => boot_environment(client.firmware),
        },
    }
}

/// The rule by which [`decide`] gave this client what it gave, for the flight recorder.
pub fn because(client: &Client, config: &Config) -> &'static str {
    let own = client.mac.is_some_and(|mac| config.program_of.contains_key(&mac));
    match (client.stage, client.firmware) {
        (Stage::Ipxe, _) => "iPXE goes to the script of its machine",
        (Stage::Script | Stage::Grub, _) => "what is assigned to the machine",
        (_, Firmware::Bios) => "BIOS gets iPXE: it knows no Secure Boot",
        _ if own => "remint.toml names the program for this machine",
        _ if config.program_for(client).is_some() => "remint.toml names the program for its model",
        _ if config.program != Program::Auto => "remint.toml names the program for all machines",
        _ if client.past == Past::UnsignedDidNotStart => {
            "its firmware loaded iPXE and did not start it: Secure Boot is on"
        }
        (_, Firmware::UefiX64) if client.transport == Transport::Http => {
            "HTTP Boot gets shim: it starts with Secure Boot too"
        }
        (_, Firmware::UefiIa32) => "there is no iPXE for this firmware",
        _ => "iPXE is the fastest that this firmware starts",
    }
}

fn program(client: &Client, config: &Config) -> Boot {
    let own = config.program_for(client);
    let refused = client.past == Past::UnsignedDidNotStart;
    let http_boot = client.transport == Transport::Http && client.firmware == Firmware::UefiX64;
    let program = match own.unwrap_or(config.program) {
        Program::Auto if refused || http_boot => Program::Shim,
        given => given,
    };
    match (client.firmware, program, client.transport) {
        (Firmware::Bios, _, Transport::Tftp) => Boot::Program("undionly.kpxe"),
        (Firmware::Bios, _, Transport::Http) => Boot::Nothing("no boot program exists for HTTP Boot of BIOS firmware"),
        (Firmware::UefiX64, Program::Shim, _) => Boot::Program("shimx64.efi"),
        (Firmware::UefiX64, _, _) => Boot::Program("snponly.efi"),
        (Firmware::UefiArm64, Program::Shim, _) => Boot::Program("shimaa64.efi"),
        (Firmware::UefiArm64, _, _) => Boot::Program("ipxe-arm64.efi"),
        // Debian has no iPXE for this firmware.
        (Firmware::UefiIa32, _, _) => Boot::Program("shimia32.efi"),
        (Firmware::Other(_), _, _) => Boot::Nothing("no boot program exists for this architecture"),
    }
}

pub(super) fn boot_environment(firmware: Firmware) -> Boot {
    match firmware {
        Firmware::UefiArm64 => Boot::BootEnvironment { kernel: "vmlinuz-arm64", initrd: "initrd-arm64.img" },
        _ => Boot::BootEnvironment { kernel: "vmlinuz", initrd: "initrd.img" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// Every firmware x transport x stage x assignment, as a table that a person can read: tests/golden/boot.txt.
    #[test]
    fn the_table_of_network_boot_is_the_one_that_was_agreed() {
        let mut table = String::from(
            "stage | firmware | transport | assigned | program = auto | auto, after a refusal | ipxe | shim\n",
        );
        let firmwares =
            [Firmware::Bios, Firmware::UefiIa32, Firmware::UefiX64, Firmware::UefiArm64, Firmware::Other(27)];
        for stage in [Stage::Firmware, Stage::Ipxe, Stage::Script, Stage::Grub] {
            for firmware in firmwares {
                let rows_of = |transport| {
                    rows(&Client {
                        mac: None,
                        uuid: None,
                        firmware,
                        transport,
                        stage,
                        past: Past::Nothing,
                        model: None,
                    })
                };
                let (tftp, http) = (rows_of(Transport::Tftp), rows_of(Transport::Http));
                let transports = if tftp == http { vec![("any", tftp)] } else { vec![("TFTP", tftp), ("HTTP", http)] };
                for (transport, rows) in transports {
                    for (assigned, boots) in rows {
                        writeln!(table, "{stage:?} | {firmware} | {transport} | {assigned} | {boots}").unwrap();
                    }
                }
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/boot.txt");
        if std::env::var_os("REMINT_BLESS").is_some() {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(table, std::fs::read_to_string(path).unwrap(), "REMINT_BLESS=1 writes the new table");
    }

    /// A row for each assignment, or one for all where it makes no difference.
    fn rows(client: &Client) -> Vec<(&'static str, String)> {
        let assignments = [
            ("unknown", Assignment::Unknown),
            ("boot environment", Assignment::BootEnvironment { machine: "m".into() }),
            ("local disk", Assignment::LocalDisk { machine: "m".into() }),
        ];
        let boots = |assignment| {
            let boot = |program, past| {
                in_words(decide(
                    &Client { past, ..client.clone() },
                    assignment,
                    &Config { program, ..Config::default() },
                ))
            };
            let ways = [
                (Program::Auto, Past::Nothing),
                (Program::Auto, Past::UnsignedDidNotStart),
                (Program::Ipxe, Past::Nothing),
                (Program::Shim, Past::UnsignedDidNotStart),
            ];
            ways.map(|(program, past)| boot(program, past)).join(" | ")
        };
        let rows: Vec<_> = assignments.iter().map(|(name, assignment)| (*name, boots(assignment))).collect();
        match rows.iter().all(|(_, boots)| *boots == rows[0].1) {
            true => vec![("any", rows[0].1.clone())],
            false => rows,
        }
    }

    fn in_words(boot: Boot) -> String {
        match boot {
            Boot::Program(name) => name.to_owned(),
            Boot::Script => "script URL".to_owned(),
            Boot::BootEnvironment { kernel, initrd } => format!("{kernel} + {initrd}"),
            Boot::LocalDisk => "local disk".to_owned(),
            Boot::Nothing(why) => format!("nothing: {why}"),
        }
    }

    #[test]
    fn unknown_machines_boot_what_the_configuration_says() {
        let client = Client::from_ipxe(None, None, "x86_64", "efi");
        let check = |unknown, expect| {
            let config = Config { unknown, ..Config::default() };
            assert_eq!(decide(&client, &Assignment::Unknown, &config), expect);
        };
        check(Unknown::BootEnvironment, boot_environment(Firmware::UefiX64));
        check(Unknown::LocalDisk, Boot::LocalDisk);
        check(Unknown::Ignore, Boot::Nothing("the machine is unknown and unknown machines are ignored here"));
    }

    #[test]
    fn one_machine_can_have_another_boot_program() {
        let mac = MacAddr([2; 6]);
        let mut config = Config::default();
        config.program_of.insert(mac, Program::Shim);
        let mut client = Client::from_ipxe(Some(mac), None, "x86_64", "efi");
        client.stage = Stage::Firmware;
        assert_eq!(decide(&client, &Assignment::Unknown, &config), Boot::Program("shimx64.efi"));
        client.mac = None;
        assert_eq!(decide(&client, &Assignment::Unknown, &config), Boot::Program("snponly.efi"));
    }

    #[test]
    fn a_model_can_have_another_boot_program() {
        let config = Config { program_of_model: vec![("latitude 5".into(), Program::Shim)], ..Config::default() };
        let mut client = Client::from_ipxe(Some(MacAddr([2; 6])), None, "x86_64", "efi");
        client.stage = Stage::Firmware;
        for (model, expect) in [("Latitude 5540", "shimx64.efi"), ("Latitude 7440", "snponly.efi")] {
            client.model = Some(model.into());
            assert_eq!(decide(&client, &Assignment::Unknown, &config), Boot::Program(expect), "{model}");
        }
    }
}
