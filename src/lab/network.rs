//! A private network: a bridge in a network namespace of its own, and a second namespace for the other DHCP server.
//!
//! A namespace lives as long as a process in it: `cat`, which ends when this process does, because its standard input
//! then ends. Programs enter by `nsenter` and are killed by the kernel when the thread that started them ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::error::Error;
use super::scenario::Dhcp;
use crate::stdx::mac::MacAddr;

/// The appliance's address.
pub const APPLIANCE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The bridge that the appliance listens on.
pub const INTERFACE: &str = "br0";
pub const PREFIX_BITS: u8 = 24;
/// The foreign DHCP server.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

pub struct Network {
    /// Where appliance and machines are.
    holder: Namespace,
    /// Where the foreign server is, at the other end of a cable to the bridge.
    _neighbour: Namespace,
    dnsmasq: Child,
    user_namespace: bool,
}

/// A network namespace and the process that keeps it.
struct Namespace(Child);

impl Network {
    /// Makes the network. `reservations` are the machines' cards: each keeps one address (from 10.77.0.11 on). `folder`
    /// takes the foreign server's log and leases.
    pub fn open(dhcp: Dhcp, reservations: &[MacAddr], folder: &Path) -> Result<Network, Error> {
        let user_namespace = !nix::unistd::Uid::effective().is_root();
        let mut unshare = Command::new("unshare");
        if user_namespace {
            unshare.args(["--user", "--map-root-user"]);
        }
        let holder = Namespace::open(unshare.arg("--net"))?;
        let mut unshare = enter(&holder, None, user_namespace, "unshare");
        let neighbour = Namespace::open(unshare.arg("--net"))?;
        configure(enter(&holder, None, user_namespace, "ip"), &bridge_commands(neighbour.0.id()))?;
        configure(enter(&neighbour, Some(&holder), user_namespace, "ip"), NEIGHBOUR_COMMANDS)?;
        let mut dnsmasq = enter(&neighbour, Some(&holder), user_namespace, "dnsmasq");
        dnsmasq.args(dnsmasq_arguments(dhcp, reservations, folder));
        let log = folder.join("dnsmasq.log");
        let log = std::fs::File::create(&log).map_err(Error::file(log))?;
        let dnsmasq = dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let dnsmasq = dnsmasq.map_err(Error::missing("dnsmasq"))?;
        Ok(Network { holder, _neighbour: neighbour, dnsmasq, user_namespace })
    }

    /// A command that runs `program` within the network and dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(&self.holder, None, self.user_namespace, program)
    }

    /// A tap on the bridge for one machine.
    pub fn add_tap(&self, name: &str) -> Result<(), Error> {
        let commands = format!("tuntap add dev {name} mode tap\nlink set {name} master {INTERFACE} up\n");
        configure(self.command("ip"), &commands)
    }

    /// Pulls the machine's cable, or puts it back.
    pub fn set_link(&self, tap: &str, up: bool) -> Result<(), Error> {
        configure(self.command("ip"), &format!("link set {tap} {}\n", if up { "up" } else { "down" }))
    }

    /// Leads a TCP port of this computer's loopback address to `target` within the network, until this process ends.
    /// Gives the address it listens on; port 0 takes any free one.
    pub fn forward(&self, port: u16, target: SocketAddr) -> Result<SocketAddr, Error> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            listener.local_addr().map(|address| (listener, address))
        };
        let busy = |error| Error::Network { message: format!("listen on 127.0.0.1:{port}: {error}") };
        let (listener, address) = listen().map_err(busy)?;
        let arguments: Vec<_> = self.command("socat").get_args().map(ToOwned::to_owned).collect();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut socat = Command::new("nsenter");
                socat.args(&arguments).arg("-").arg(format!("TCP:{target}"));
                std::thread::spawn(move || connect(socat, stream));
            }
        });
        Ok(address)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
    }
}

impl Namespace {
    /// Runs `cat` in what `unshare` makes, and waits until it answers: then the namespace is there.
    fn open(unshare: &mut Command) -> Result<Namespace, Error> {
        let child = unshare.arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut namespace = Namespace(child.map_err(Error::missing("unshare"))?);
        let Namespace(child) = &mut namespace;
        let (Some(input), Some(output)) = (&mut child.stdin, &mut child.stdout) else {
            return Err(Error::Network { message: "no pipe to the namespace".to_owned() });
        };
        if input.write_all(b"?").and_then(|()| output.read_exact(&mut [0])).is_err() {
            let mut message = String::new();
            let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut message));
            return Err(Error::Network { message: message.trim().to_owned() });
        }
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nsenter(1) executes the program in its own place, and so does setpriv: the process started is `program` itself.
/// Entering a user namespace clears the signal that setpriv asks for, so it comes after.
fn enter(at: &Namespace, user_of: Option<&Namespace>, user: bool, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    if user {
        let owner = user_of.unwrap_or(at).0.id();
        command.arg(format!("--user=/proc/{owner}/ns/user")).arg("--preserve-credentials");
    }
    command.arg(format!("--net=/proc/{}/ns/net", at.0.id()));
    command.args(["setpriv", "--pdeathsig", "KILL"]).arg(program);
    command
}

/// Gives `ip` a batch on its standard input.
fn configure(mut ip: Command, commands: &str) -> Result<(), Error> {
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().map_err(Error::missing("ip"))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(commands.as_bytes()));
    let output = child.wait_with_output().map_err(Error::missing("ip"))?;
    if !output.status.success() || !matches!(written, Some(Ok(()))) {
        let message = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("ip failed").to_owned();
        return Err(Error::Network { message });
    }
    Ok(())
}

fn bridge_commands(neighbour: u32) -> String {
    format!(
        "link set lo up\n\
         link add {INTERFACE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         addr add {APPLIANCE}/{PREFIX_BITS} dev {INTERFACE}\n\
         link set {INTERFACE} up\n\
         link add cable0 type veth peer name cable1 netns {neighbour}\n\
         link set cable0 master {INTERFACE} up\n"
    )
}

const NEIGHBOUR_COMMANDS: &str =
    "link set lo up\naddr add 10.77.0.2/24 dev cable1\naddr add fd77::2/64 dev cable1 nodad\nlink set cable1 up\n";

/// Router advertisements in both modes: without one, iPXE waits 4 to 16 seconds for IPv6 at each start.
fn dnsmasq_arguments(dhcp: Dhcp, reservations: &[MacAddr], folder: &Path) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0", "--interface=cable1"]
            .into_iter()
            .chain(["--bind-interfaces", "--enable-ra", "--dhcp-range=::,constructor:cable1,ra-only", "--log-dhcp"])
            .map(str::to_owned)
            .collect();
    arguments.push(format!("--dhcp-leasefile={}", folder.join("dnsmasq.leases").display()));
    if dhcp == Dhcp::Proxy {
        // With no-ping it answers at once, and would then offer one address twice: each card has its own.
        arguments.extend(["--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h", "--no-ping"].map(str::to_owned));
        arguments.extend(["--dhcp-authoritative".to_owned(), format!("--dhcp-option=option:router,{NEIGHBOUR}")]);
        for (last, mac) in (11..).zip(reservations) {
            arguments.push(format!("--dhcp-host={mac},10.77.0.{last}"));
        }
    }
    arguments
}

/// Runs socat with the connection as its input and output, until either side closes.
fn connect(mut socat: Command, stream: TcpStream) {
    use std::os::fd::OwnedFd;
    let Ok(copy) = stream.try_clone() else { return };
    let child = socat.stdin(OwnedFd::from(copy)).stdout(OwnedFd::from(stream)).stderr(Stdio::null()).spawn();
    if let Ok(mut child) = child {
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// `None`, with the reason printed, where this computer does not let us make namespaces.
    fn network(folder: &Path) -> Option<Network> {
        match Network::open(Dhcp::Proxy, &[MacAddr([0x52, 0x54, 0, 0x77, 0, 1])], folder) {
            Ok(network) => Some(network),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn a_program_in_the_network_sees_the_bridge_and_nothing_of_this_computer() {
        let folder = tempfile::tempdir().unwrap();
        let Some(network) = network(folder.path()) else { return };
        if let Err(error) = network.add_tap("tap0") {
            return println!("skipped: {error}");
        }
        let output = network.command("ip").args(["-brief", "link"]).output().unwrap();
        let links = String::from_utf8(output.stdout).unwrap();
        let names: Vec<&str> = links.lines().filter_map(|line| line.split(['@', ' ']).next()).collect();
        assert_eq!(names, ["lo", INTERFACE, "cable0", "tap0"], "{links}");
    }

    #[test]
    fn a_port_of_this_computer_leads_into_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let Some(network) = network(folder.path()) else { return };
        let mut server = network.command("socat");
        let server = server.args(["TCP-LISTEN:8000,bind=10.77.0.1,reuseaddr", "SYSTEM:echo welcome"]).spawn();
        let Ok(mut server) = server else { return println!("skipped: socat is not installed") };
        let address = network.forward(0, SocketAddr::from((APPLIANCE, 8000))).unwrap();
        let start = Instant::now();
        let mut text = String::new();
        while text.is_empty() && start.elapsed() < Duration::from_secs(20) {
            let _ = TcpStream::connect(address).unwrap().read_to_string(&mut text);
        }
        let _ = server.kill();
        let _ = server.wait();
        assert_eq!(text, "welcome\n");
    }
}
