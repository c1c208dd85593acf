//! `remint doctor`: what would keep machines from booting, each finding with the way out.
//!
//! It asks and looks, and changes nothing. It may run beside the appliance, which then is one of those who answer.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::interface;
use super::neighbours::conflicts;
use super::site::Site;
use crate::bootenv::build::{CURRENT, current};
use crate::bootenv::manifest::FileEntry;
use crate::config::written::DhcpMode;
use crate::config::{self, Interface, Used};
use crate::dhcp::survey::{self, Answer, Asked};
use crate::stdx::hint::{Hint, chain};

/// A boot environment has some 200 MB, an image some GB: less than this is too little to work with.
const FREE_BYTES_MIN: u64 = 5_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Good,
    /// Works, and may surprise somebody.
    Warning,
    /// Keeps machines from booting.
    Bad,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `interface`, `ports`, `dhcp`, `firewall`, `boot-files`, `clock`, `store`.
    pub subject: &'static str,
    pub state: State,
    pub what: String,
    pub way_out: Option<String>,
}

fn good(subject: &'static str, what: impl Into<String>) -> Finding {
    Finding { subject, state: State::Good, what: what.into(), way_out: None }
}

fn warning(subject: &'static str, what: impl Into<String>, way_out: impl Into<String>) -> Finding {
    Finding { subject, state: State::Warning, what: what.into(), way_out: Some(way_out.into()) }
}

fn bad(subject: &'static str, what: impl Into<String>, way_out: impl Into<String>) -> Finding {
    Finding { state: State::Bad, ..warning(subject, what, way_out) }
}

/// Everything that can be looked at, in the order of a machine's boot.
pub fn examine(site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    let running = UnixStream::connect(site.control_socket()).is_ok();
    match config::resolve(site.written.clone(), &interface::interfaces()) {
        Ok(used) => {
            findings.extend(used.served.iter().map(examine_interface));
            findings.extend(examine_ports(&used, running));
            findings.extend(used.served.iter().flat_map(|interface| examine_dhcp(&used, interface, running)));
        }
        Err(error) => findings.push(bad("interface", chain(&error), error.hint().unwrap_or_default())),
    }
    findings.push(examine_firewall());
    findings.extend(examine_boot_files(&site.boot_folder()));
    findings.push(examine_clock(site));
    findings.push(examine_store(&site.folder));
    findings
}

fn examine_interface(interface: &Interface) -> Finding {
    let Interface { name, address, .. } = interface;
    let link = fs::read_to_string(format!("/sys/class/net/{name}/carrier"));
    if !interface.up {
        return bad("interface", format!("{name} ({address}) is down"), format!("ip link set {name} up"));
    }
    match link.as_deref().map(str::trim) {
        Ok("1") => good("interface", format!("{name} has the address {address} and a link")),
        _ => warning("interface", format!("{name} ({address}) has no link"), "is the cable in, and the switch on?"),
    }
}

const PORTS: [(Type, u16, &str); 5] = [
    (Type::DGRAM, 67, "DHCP"),
    (Type::DGRAM, 4011, "PXE boot server"),
    (Type::DGRAM, 69, "TFTP"),
    (Type::STREAM, 80, "HTTP"),
    (Type::STREAM, 443, "HTTPS"),
];

fn examine_ports(used: &Used, running: bool) -> Vec<Finding> {
    if running {
        return vec![good("ports", "the appliance of this site is running and holds its ports")];
    }
    let mut findings = Vec::new();
    for (kind, usual, what) in PORTS {
        let port = match usual {
            69 => used.tftp_port,
            80 => used.http_port,
            443 => used.https_port,
            67 | 4011 if used.dhcp.mode == DhcpMode::Off => continue,
            usual => usual,
        };
        let transport = if kind == Type::DGRAM { "UDP" } else { "TCP" };
        if let Err(error) = try_port(kind, port, used) {
            let (whose, way_out) = match error.kind() {
                std::io::ErrorKind::AddrInUse => holder(transport, port),
                std::io::ErrorKind::PermissionDenied => (error.to_string(), "run it as root".to_owned()),
                _ => (error.to_string(), "does the interface have its address?".to_owned()),
            };
            findings.push(bad("ports", format!("{transport} port {port} ({what}) cannot be taken: {whose}"), way_out));
        }
    }
    if findings.is_empty() {
        findings.push(good("ports", "the ports of DHCP, TFTP, HTTP and HTTPS are free"));
    }
    findings
}

fn try_port(kind: Type, port: u16, used: &Used) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?; // as the appliance does: connections that end do not count
    }
    let address = if port == used.tftp_port { used.address } else { Ipv4Addr::UNSPECIFIED };
    socket.bind(&SocketAddr::from((address, port)).into())
}

/// Who holds a port, by `ss` of iproute2: `users:(("dnsmasq",pid=41,fd=4))`.
fn holder(transport: &str, port: u16) -> (String, String) {
    let kind = if transport == "UDP" { "-Hlnup" } else { "-Hlntp" };
    let output = Command::new("ss").arg(kind).arg(format!("sport = :{port}")).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.split("((\"").nth(1).and_then(|rest| rest.split('"').next()) {
        Some(program) => (
            format!("`{program}` holds it"),
            format!("stop {program}, or keep it off this interface (`systemctl stop {program}`)"),
        ),
        None => ("another program holds it".to_owned(), format!("`ss {kind} sport = :{port}` as root names it")),
    }
}

fn examine_dhcp(used: &Used, interface: &Interface, running: bool) -> Vec<Finding> {
    let name = &interface.name;
    let answers = match survey::ask(name, std::process::id(), survey::WAIT) {
        Ok(answers) => answers,
        Err(error) => {
            let what = format!("nobody could be asked on {name}: {error}");
            return vec![warning("dhcp", what, "run it as root; a DHCP client that holds UDP port 68 must leave it")];
        }
    };
    let mut findings: Vec<Finding> = answers
        .iter()
        .filter(|answer| answer.asked == Asked::UefiX64)
        .map(|answer| good("dhcp", in_words(name, interface.address, answer)))
        .collect();
    if running && used.dhcp.mode != DhcpMode::Off && !answers.iter().any(|a| a.server == interface.address) {
        findings.push(bad(
            "dhcp",
            format!("the appliance runs and its answers do not come through on {name}"),
            "does a firewall of this host drop UDP ports 67 and 68?",
        ));
    }
    for conflict in conflicts(used.dhcp.mode, interface.address, &answers) {
        findings.push(bad("dhcp", format!("on {name}, {}", conflict.what), conflict.way_out));
    }
    findings
}

/// What a UEFI machine would hear from this server.
fn in_words(interface: &str, own: Ipv4Addr, answer: &Answer) -> String {
    let who = if answer.server == own { "this appliance".to_owned() } else { answer.server.to_string() };
    let address = answer.address.map_or("no address".to_owned(), |address| format!("the address {address}"));
    let file = answer.file.as_ref().map_or("nothing to boot".to_owned(), |file| format!("`{}`", file.escape_debug()));
    format!("on {interface}, {who} answers a UEFI machine with {address} and {file}")
}

/// Whether packets from outside reach us at all. Rules are only read for what they do in the end: a chain that drops.
fn examine_firewall() -> Finding {
    const PORTS: &str = "UDP 67, 69, 4011, TCP 80, 443, and UDP above 1024 for TFTP transfers";
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let nft = run("nft", &["list", "ruleset"]);
    let iptables = run("iptables", &["-S", "INPUT"]);
    if nft.is_none() && iptables.is_none() {
        return good("firewall", "no firewall of this host was found (neither nft nor iptables)");
    }
    if drops(nft.as_deref().unwrap_or_default(), iptables.as_deref().unwrap_or_default()) {
        let way_out = format!("allow {PORTS}; for TFTP `tftp_single_port = true` spares the ports above 1024");
        return warning("firewall", "the firewall of this host drops what it does not allow by name", way_out);
    }
    good("firewall", "the firewall of this host lets packets in")
}

/// A chain of nftables at `hook input`, or the INPUT chain of iptables, with policy drop or a last rule that refuses all.
fn drops(nft: &str, iptables: &str) -> bool {
    let by_nft = nft.split("chain ").any(|chain| chain.contains("hook input") && chain.contains("policy drop"));
    let refuses_all = |rule: &str| {
        ["-j DROP", "-j REJECT"].iter().any(|end| rule.contains(end))
            && !rule.contains(" -p ")
            && !rule.contains(" -s ")
    };
    by_nft || iptables.contains("-P INPUT DROP") || iptables.lines().any(refuses_all)
}

fn examine_boot_files(folder: &Path) -> Vec<Finding> {
    let Some(manifest) = current(folder) else {
        let what = "no boot environment was built: machines are told to wait";
        return vec![bad("boot-files", what, "remint boot build")];
    };
    let wrong: Vec<&FileEntry> = manifest
        .files
        .iter()
        .filter(|file| {
            fs::read(folder.join(CURRENT).join(&file.name))
                .map_or(true, |bytes| FileEntry::of(&file.name, &bytes) != **file)
        })
        .collect();
    let mut findings = match wrong.as_slice() {
        [] => vec![good(
            "boot-files",
            format!(
                "the {} boot files of Linux {} are as they were built",
                manifest.files.len(),
                manifest.kernel_release
            ),
        )],
        wrong => {
            let names: Vec<&str> = wrong.iter().map(|file| file.name.as_str()).collect();
            vec![bad("boot-files", format!("not as they were built: {}", names.join(", ")), "remint boot build")]
        }
    };
    match &manifest.arm64 {
        Some(second) if second.agent_sha256.is_none() => findings.push(warning(
            "boot-files",
            "the boot environment for arm64 holds no agent: it starts and can do nothing",
            "remint boot build --arm64 --agent-arm64 FILE",
        )),
        _ => {}
    }
    findings
}

/// A clock that lies before something that has happened already makes certificates invalid.
fn examine_clock(site: &Site) -> Finding {
    let way_out = "set the clock (`timedatectl set-ntp true`): certificates are judged by it";
    let now = site.clock.now();
    let written = fs::metadata(site.folder.join("remint.sqlite")).and_then(|metadata| metadata.modified());
    let written = written.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    if written.is_some_and(|at| at.as_millis() > now.milliseconds().unsigned_abs().into() && now.milliseconds() > 0) {
        return bad("clock", "the clock is behind the last change of the database", way_out);
    }
    let output = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    match output.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).as_deref() {
        Some("no") => warning("clock", "the clock is not synchronised with a time server", way_out),
        Some("yes") => good("clock", "the clock is synchronised"),
        _ => good("clock", "the clock is later than the last change of the database"),
    }
}

fn examine_store(folder: &Path) -> Finding {
    let Ok(space) = nix::sys::statvfs::statvfs(folder) else {
        return bad("store", format!("{} cannot be looked at", folder.display()), "run it as root");
    };
    let free = space.blocks_available() * space.fragment_size();
    let words = format!("{:.1} GB are free for {}", free as f64 / 1e9, folder.display());
    if free < FREE_BYTES_MIN {
        return warning("store", words, "`remint store gc` frees what no image needs; or give the site a larger disk");
    }
    good("store", words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firewalls_that_drop_are_told_from_those_that_let_in() {
        let nft = |policy: &str| {
            format!("table inet f {{\n chain in {{\n type filter hook input priority 0; policy {policy};\n }}\n}}")
        };
        assert!(drops(&nft("drop"), ""));
        assert!(!drops(&nft("accept"), "-P INPUT ACCEPT\n-A INPUT -p tcp --dport 25 -j DROP\n"));
        assert!(drops("", "-P INPUT DROP\n"));
        assert!(drops(
            "",
            "-P INPUT ACCEPT\n-A INPUT -p udp -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n"
        ));
    }

    #[test]
    fn boot_files_that_were_changed_or_lost_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let found = examine_boot_files(folder.path());
        assert_eq!((found[0].state, found[0].way_out.as_deref()), (State::Bad, Some("remint boot build")));
        let current = folder.path().join(CURRENT);
        fs::create_dir(&current).unwrap();
        let entries = vec![FileEntry::of("vmlinuz", b"kernel"), FileEntry::of("initrd.img", b"initramfs")];
        let flavour = crate::bootenv::modules::Flavour::Virtual;
        let manifest = crate::bootenv::manifest::Manifest::new(flavour, "6.1", b"agent", &[], 0, entries);
        fs::write(current.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        fs::write(current.join("vmlinuz"), "kernel").unwrap();
        fs::write(current.join("initrd.img"), "initramfs").unwrap();
        assert_eq!(examine_boot_files(folder.path())[0].state, State::Good);
        fs::write(current.join("vmlinuz"), "kernal").unwrap();
        let found = examine_boot_files(folder.path());
        assert!(found[0].state == State::Bad && found[0].what.ends_with("vmlinuz"), "{found:?}");
    }

    #[test]
    fn what_a_machine_would_hear_is_said_in_words() {
        let answer = Answer {
            asked: Asked::UefiX64,
            server: Ipv4Addr::new(10, 0, 0, 1),
            address: None,
            file: Some("snponly.efi".into()),
            next_server: None,
        };
        let words = in_words("eth0", Ipv4Addr::new(10, 0, 0, 1), &answer);
        assert_eq!(words, "on eth0, this appliance answers a UEFI machine with no address and `snponly.efi`");
    }
}
