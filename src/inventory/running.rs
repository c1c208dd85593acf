//! What runs on a system and who may use it: services, listening ports, accounts. Read from files under a root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::model::{Account, Port, Service};

/// UDP ports from here on are what programs that ask others happen to be given (ip(7), `ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// Processes that are looked at for their sockets; a busy server has some thousands.
const PROCESSES_MAX: usize = 20_000;

/// systemd's services: enabled is what a target wants (systemd.unit(5), `.wants/` and `.requires/`), running is what has
/// processes in its control group.
pub fn services(root: &Path) -> Vec<Service> {
    let mut found: BTreeMap<String, Service> = BTreeMap::new();
    for folder in
        folders(&root.join("etc/systemd/system"), |name| name.ends_with(".wants") || name.ends_with(".requires"))
    {
        for name in names(&folder).into_iter().filter(|name| name.ends_with(".service")) {
            found.entry(name.clone()).or_default().enabled = true;
        }
    }
    for slice in ["sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice"] {
        for folder in folders(&root.join(slice), |name| name.ends_with(".service")) {
            let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
            let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            if events.contains("populated 1") || !processes.trim().is_empty() {
                found.entry(name_of(&folder)).or_default().running = true;
            }
        }
    }
    found.into_iter().map(|(name, service)| Service { name, ..service }).collect()
}

/// Sockets that wait for others: TCP in the state LISTEN, UDP that is bound (proc(5), `/proc/net/tcp`).
pub fn ports(root: &Path) -> Vec<Port> {
    const LISTEN: &str = "0A";
    const UDP_BOUND: &str = "07";
    let mut ports: BTreeSet<(Port, String)> = BTreeSet::new();
    for (file, protocol, state) in
        [("tcp", "tcp", LISTEN), ("tcp6", "tcp", LISTEN), ("udp", "udp", UDP_BOUND), ("udp6", "udp", UDP_BOUND)]
    {
        let text = fs::read_to_string(root.join("proc/net").join(file)).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(found), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                continue;
            };
            let Some((address, port)) = endpoint(local).filter(|_| *found == state) else { continue };
            if protocol == "udp" && port >= EPHEMERAL {
                continue;
            }
            let port = Port { protocol: protocol.to_owned(), address, port, program: None };
            ports.insert((port, (*inode).to_owned()));
        }
    }
    let inodes: BTreeSet<&str> = ports.iter().map(|(_, inode)| inode.as_str()).collect();
    let owners = owners(root, &inodes);
    let named = ports.iter().map(|(port, inode)| Port { program: owners.get(inode).cloned(), ..port.clone() });
    let mut named: Vec<Port> = named.collect();
    named.dedup();
    named
}

/// `0100007F:0016` is 127.0.0.1, port 22: words of 32 bits in the machine's order (little-endian on all that we run on).
fn endpoint(text: &str) -> Option<(String, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let bytes = crate::stdx::hex::parse(address)?;
    let in_order: Vec<u8> = bytes.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let address = match in_order.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(in_order).ok()?).to_string(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(in_order).ok()?).to_string(),
        _ => return None,
    };
    Some((address, port))
}

/// The programs that hold the sockets: `/proc/PID/fd/N` points to `socket:[INODE]`.
fn owners(root: &Path, inodes: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    for process in folders(&root.join("proc"), is_process).into_iter().take(PROCESSES_MAX) {
        for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let target =
                fs::read_link(entry.path()).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                owners.entry(inode.to_owned()).or_insert_with(|| name.trim().to_owned());
            }
        }
    }
    owners
}

/// passwd(5) and group(5).
pub fn accounts(root: &Path) -> Vec<Account> {
    let read = |path: &str| fs::read(root.join(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let groups = read("etc/group").unwrap_or_default();
    let groups_of = |name: &str| -> Vec<String> {
        let member = |line: &&str| line.rsplit(':').next().is_some_and(|list| list.split(',').any(|one| one == name));
        groups.lines().filter(member).filter_map(|line| line.split(':').next()).map(str::to_owned).collect()
    };
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, _, shell] = fields.try_into().ok()?;
        Some(Account {
            name: name.to_owned(),
            uid: uid.parse().ok()?,
            shell: shell.to_owned(),
            groups: groups_of(name),
        })
    };
    let passwd = read("etc/passwd").unwrap_or_default();
    let mut accounts: Vec<Account> = passwd.lines().filter_map(account).collect();
    accounts.sort_by(|a, b| a.name.cmp(&b.name));
    accounts
}

fn folders(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<_> = entries.filter(|path| wanted(&name_of(path)) && path.is_dir()).collect();
    folders.sort();
    folders
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| name_of(&entry.path())).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn services_are_enabled_or_running_or_both() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "etc/systemd/system/multi-user.target.wants/ssh.service", "");
        write(root, "etc/systemd/system/multi-user.target.wants/cron.service", "");
        write(root, "etc/systemd/system/alone.service", "");
        write(root, "sys/fs/cgroup/system.slice/ssh.service/cgroup.events", "populated 1\nfrozen 0\n");
        write(root, "sys/fs/cgroup/system.slice/dbus.service/cgroup.procs", "12\n");
        write(root, "sys/fs/cgroup/system.slice/done.service/cgroup.events", "populated 0\n");
        let shown: Vec<_> = services(root).into_iter().map(|s| (s.name, s.enabled, s.running)).collect();
        let expected = [("cron.service", true, false), ("dbus.service", false, true), ("ssh.service", true, true)];
        assert_eq!(shown, expected.map(|(name, enabled, running)| (name.to_owned(), enabled, running)));
    }

    #[test]
    fn ports_are_those_that_wait_with_the_program_behind_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = |local: &str, state: &str, inode: u32| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 x\n"
            )
        };
        let tcp = [head, &line("0100007F:0016", "0A", 7), &line("0100007F:9999", "01", 8)].concat();
        write(root, "proc/net/tcp", &tcp);
        write(root, "proc/net/tcp6", &[head, &line("00000000000000000000000001000000:0050", "0A", 9)].concat());
        write(root, "proc/net/udp", &[head, &line("00000000:0044", "07", 10)].concat());
        write(root, "proc/42/comm", "sshd\n");
        fs::create_dir_all(root.join("proc/42/fd")).unwrap();
        symlink("socket:[7]", root.join("proc/42/fd/3")).unwrap();
        let shown: Vec<String> = ports(root)
            .into_iter()
            .map(|port| {
                format!("{} {} {} {}", port.protocol, port.address, port.port, port.program.unwrap_or_default())
            })
            .collect();
        assert_eq!(shown, ["tcp 127.0.0.1 22 sshd", "tcp ::1 80 ", "udp 0.0.0.0 68 "]);
    }

    #[test]
    fn accounts_are_told_with_their_groups() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nops:x:1000:1000::/home/ops:/bin/sh\nnoise\n",
        );
        write(root.path(), "etc/group", "adm:x:4:syslog,ops\nsudo:x:27:ops\n");
        let accounts = accounts(root.path());
        assert_eq!(accounts.len(), 2);
        assert_eq!(
            (accounts[0].name.as_str(), accounts[0].uid, accounts[0].groups.join(" ").as_str()),
            ("ops", 1000, "adm sudo")
        );
    }
}
