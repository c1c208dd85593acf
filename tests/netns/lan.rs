//! A LAN of network namespaces: one with the bridge `br0` (10.77.0.1/24, where the appliance runs), one for each host.

use std::cell::Cell;
use std::fs::File;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use nix::sched::{CloneFlags, setns};

static SERIAL: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Lan {
    name: String,
    hosts: Cell<u32>,
}

/// A host on the LAN: a namespace with the interface `lan0`.
pub(crate) struct Host {
    pub(crate) space: String,
}

impl Lan {
    /// `None`, with the reason printed, where namespaces or one of `programs` are missing.
    pub(crate) fn with(programs: &[&str]) -> Option<Lan> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        if let Some(missing) = ["ip"].iter().chain(programs).find(|program| !is_installed(program)) {
            println!("skipped: `{missing}` is not installed (scripts/setup)");
            return None;
        }
        let lan =
            Lan { name: format!("rm{}-{}", std::process::id(), SERIAL.fetch_add(1, SeqCst)), hosts: Cell::new(0) };
        ip(&format!("netns add {}", lan.name));
        for command in [
            "link set lo up",
            "link add br0 type bridge forward_delay 0 stp_state 0",
            "addr add 10.77.0.1/24 dev br0",
            "link set br0 up",
        ] {
            ip(&format!("-n {} {command}", lan.name));
        }
        Some(lan)
    }

    /// The namespace of the bridge.
    pub(crate) fn space(&self) -> &str {
        &self.name
    }

    /// A host without an address.
    pub(crate) fn host(&self) -> Host {
        let number = self.hosts.get();
        self.hosts.set(number + 1);
        let (lan, space, port) = (&self.name, format!("{}h{number}", self.name), format!("p{number}"));
        ip(&format!("netns add {space}"));
        ip(&format!("-n {lan} link add {port} type veth peer name lan0 netns {space}"));
        ip(&format!("-n {lan} link set {port} master br0 up"));
        ip(&format!("-n {space} link set lo up"));
        ip(&format!("-n {space} link set lan0 up"));
        // Until the bridge forwards (state 3), what a host says first is lost.
        let forwards = || run(lan, &format!("cat /sys/class/net/{port}/brport/state")).1.trim() == "3";
        for _ in 0..100 {
            if forwards() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Host { space }
    }

    pub(crate) fn host_at(&self, address: &str) -> Host {
        let host = self.host();
        ip(&format!("-n {} addr add {address} dev lan0", host.space));
        host
    }

    /// A tap on the bridge for a virtual machine that runs in the bridge's namespace.
    pub(crate) fn tap(&self, name: &str) {
        ip(&format!("-n {} tuntap add dev {name} mode tap", self.name));
        ip(&format!("-n {} link set {name} master br0 up", self.name));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for number in 0..self.hosts.get() {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}h{number}", self.name)]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub(crate) fn is_installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|folder| std::path::Path::new(folder).join(program).exists())
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A command line in a namespace.
pub(crate) fn command(space: &str, line: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).args(line.split(' ')).stdin(Stdio::null());
    command
}

/// Runs to the end; standard output and error together.
pub(crate) fn run(space: &str, line: &str) -> (bool, String) {
    let Output { status, stdout, stderr } = command(space, line).output().unwrap();
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// A program that runs until it is dropped.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn start(space: &str, line: &str) -> Background {
    Background(command(space, line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Runs `work` on a thread of its own that has entered the namespace.
pub(crate) fn within<T: Send + 'static>(
    space: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = format!("/run/netns/{space}");
    std::thread::spawn(move || {
        setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}
