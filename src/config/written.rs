//! `remint.toml` as people write it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::fleet::rule::Rule;
use crate::pxe::boot::{Program, Unknown};
use crate::stdx::mac::MacAddr;

/// The whole file. Unknown keys are refused, so that a typing error is not a silent default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Written {
    pub network: Network,
    pub dhcp: Dhcp,
    pub boot: Boot,
    pub enrolment: Enrolment,
    pub store: Store,
    pub delivery: Delivery,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Interface to serve. Default: the only one that is up and has an IPv4 address.
    pub interface: Option<String>,
    /// More interfaces to serve in the same way: VLANs, other subnets.
    pub more_interfaces: Vec<String>,
    /// Address that machines are sent to. Default: the first IPv4 address of the interface.
    pub address: Option<Ipv4Addr>,
    /// Host names that stand in the appliance's certificate besides its addresses.
    pub names: Vec<String>,
    /// Port of plain HTTP: boot files and scripts only, because firmware cannot do better.
    pub http_port: u16,
    /// Port of HTTPS: console, API, machines.
    pub https_port: u16,
    /// Port of TFTP. Firmware asks at 69 only; another port is for tests.
    pub tftp_port: u16,
    /// Answers TFTP from its own port alone, for firewalls that let nothing else through.
    pub tftp_single_port: bool,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            interface: None,
            more_interfaces: Vec::new(),
            address: None,
            names: Vec::new(),
            http_port: 80,
            https_port: 443,
            tftp_port: 69,
            tftp_single_port: false,
        }
    }
}

/// How the appliance takes part in DHCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DhcpMode {
    /// Beside the network's own server: adds where to boot from and gives no address. Nothing in the network changes.
    #[default]
    Proxy,
    /// The network's only DHCP server: gives addresses and where to boot from.
    Server,
    /// No DHCP at all; another server points machines here.
    Off,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dhcp {
    /// `proxy` (default), `server` or `off`.
    pub mode: DhcpMode,
    /// First and last address that mode `server` gives. Default: the upper half of the interface's network.
    pub range: Option<[Ipv4Addr; 2]>,
    /// Seconds that an address is lent for.
    pub lease_seconds: u32,
    /// Router that machines are told. Default: none.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers that machines are told. Default: none.
    pub dns: Vec<Ipv4Addr>,
    /// Domain that machines are told. Default: none.
    pub domain: Option<String>,
    /// Addresses that belong to certain machines.
    pub reservation: Vec<Reservation>,
    /// Subnets of the other interfaces and of relays.
    pub subnet: Vec<Subnet>,
}

impl Default for Dhcp {
    fn default() -> Dhcp {
        Dhcp {
            mode: DhcpMode::Proxy,
            range: None,
            lease_seconds: 3600,
            gateway: None,
            dns: Vec::new(),
            domain: None,
            reservation: Vec::new(),
            subnet: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub mac: MacAddr,
    pub address: Ipv4Addr,
}

/// A subnet that mode `server` gives addresses of, besides that of the first interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// `10.78.0.0/24`: that of an interface, or one that a relay asks for.
    pub network: String,
    /// First and last address. Default: the upper half.
    pub range: Option<[Ipv4Addr; 2]>,
    /// Default: that of `[dhcp]`.
    pub lease_seconds: Option<u32>,
    /// Default: none.
    pub gateway: Option<Ipv4Addr>,
    /// Default: those of `[dhcp]`.
    pub dns: Option<Vec<Ipv4Addr>>,
    /// Default: that of `[dhcp]`.
    pub domain: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    /// `boot-environment` (default), `local-disk` or `ignore`.
    pub unknown: Unknown,
    /// The boot program of UEFI machines: `auto` (default), `ipxe` or `shim`.
    pub program: Program,
    /// Other boot programs for single machines and for models.
    pub machine: Vec<MachineProgram>,
    /// More words for the kernel command line of the boot environment, for instance `console=ttyS1,115200`.
    pub kernel_arguments: String,
    /// Entries for menus besides the built-in ones.
    pub entry: Vec<MenuEntry>,
    /// Menus, each for some machines; a machine's own goes before its collections', and that before everybody's.
    pub menu: Vec<Menu>,
}

/// Another system that a menu can start, out of the files in `boot/added` of the site: a kernel or an EFI program.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MenuEntry {
    /// What menus call it by: lower-case letters, digits and `-`.
    pub name: String,
    /// What is shown. Default: the name.
    pub title: Option<String>,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub arguments: String,
    pub efi: Option<String>,
}

/// A boot menu: of one machine, of a collection's machines, or of all where neither is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Menu {
    pub mac: Option<MacAddr>,
    pub collection: Option<String>,
    /// Until the default is taken; 0 waits for a person.
    pub seconds: u32,
    pub default: String,
    /// In their order. Default: the built-in ones and then all others.
    pub entries: Option<Vec<String>>,
    /// What `grub-mkpasswd-pbkdf2` prints; asked for before any entry but the default.
    pub password: Option<String>,
}

impl Default for Menu {
    fn default() -> Menu {
        Menu { mac: None, collection: None, seconds: 10, default: "continue".into(), entries: None, password: None }
    }
}

/// The boot program of one machine or of a model; one of `mac` and `model` is given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineProgram {
    pub mac: Option<MacAddr>,
    /// Part of the model's name; a machine is known by it from its first check-in on.
    pub model: Option<String>,
    pub program: Program,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrolment {
    /// A machine in the middle of a run that comes with a new key goes on without being approved again.
    pub continue_runs: bool,
    /// Days that a machine's certificate is valid; the agent renews it when a third is left, and each day.
    pub certificate_days: u32,
    /// The same in minutes, instead of days: a stolen certificate opens little for long.
    pub certificate_minutes: Option<u32>,
    /// Rules that approve machines without a person; the first that fits decides.
    pub rule: Vec<Rule>,
}

impl Enrolment {
    /// At least a minute, because a clock may be some seconds off; at most ten years.
    pub fn certificate_seconds(&self) -> u32 {
        const DAY: u32 = 86_400;
        let seconds =
            self.certificate_minutes.map_or(self.certificate_days.saturating_mul(DAY), |m| m.saturating_mul(60));
        seconds.clamp(60, 3650 * DAY)
    }
}

impl Default for Enrolment {
    fn default() -> Enrolment {
        Enrolment { continue_runs: true, certificate_days: 90, certificate_minutes: None, rule: Vec::new() }
    }
}

/// From where machines fetch. Default: from this appliance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Other appliances of the same site, which are asked first, in this order.
    pub mirrors: Vec<Mirror>,
}

/// The address of an appliance: `https://HOST` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror(pub String);

impl TryFrom<String> for Mirror {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Mirror, &'static str> {
        let is_host = |host: &str| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
        };
        match text.strip_prefix("https://").is_some_and(is_host) {
            true => Ok(Mirror(text)),
            false => Err("a mirror is written as `https://HOST` or `https://HOST:PORT`"),
        }
    }
}

/// Where images lie. Default: in the site's own folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// GiB of packs that stay in the site's folder when the store is kept far away.
    pub near_gib: u64,
    /// Places that each hold everything: what is written goes to all, what is read comes from the first that has it.
    pub far: Vec<Far>,
}

impl Default for Store {
    fn default() -> Store {
        Store { near_gib: 64, far: Vec::new() }
    }
}

/// A bucket of an S3-compatible server, or a folder of another disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Far {
    /// The folder, which must be there: a mounted share, another disk.
    pub folder: Option<PathBuf>,
    /// The bucket.
    pub bucket: Option<String>,
    /// `https://s3.example.org`. Default: Amazon's own for the region.
    pub endpoint: Option<String>,
    pub region: String,
    /// Put before the name of every object, for instance `site-1/`.
    pub prefix: String,
    pub access_key: String,
    /// File that holds the secret key, readable by the appliance alone.
    pub secret_key_file: Option<PathBuf>,
    /// Authorities (PEM) that the server's certificate may be from.
    pub authorities: PathBuf,
}

impl Default for Far {
    fn default() -> Far {
        Far {
            folder: None,
            bucket: None,
            endpoint: None,
            region: "us-east-1".to_owned(),
            prefix: String::new(),
            access_key: String::new(),
            secret_key_file: None,
            authorities: "/etc/ssl/certs/ca-certificates.crt".into(),
        }
    }
}
