//! The Debian package on a bare Debian 12: installed, serving, upgraded, removed, purged. Needs root and mmdebstrap.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SITE: &str = "var/lib/remint-site";
/// Of systemd-analyze: 0 is shut off from everything, 10 is root without a limit.
const EXPOSURE_MAX: f64 = 3.0;

#[test]
fn the_package_is_installed_serves_is_upgraded_and_purged_without_a_trace() {
    let Some(debian) = Debian::bare() else { return };
    let before = debian.files();
    debian.install(&package("0.1.0"));
    let owner = fs::metadata(debian.root().join(SITE)).unwrap();
    assert_ne!(owner.uid(), 0, "the site belongs to a user of its own");
    assert_eq!(owner.mode() & 0o777, 0o700);
    for path in [
        "usr/lib/systemd/system/remint.service",
        "usr/lib/sysctl.d/50-remint.conf",
        "usr/share/man/man1/remint-image-import.1.gz",
        "usr/bin/remint-agent",
    ] {
        assert!(debian.root().join(path).is_file(), "{path}");
    }
    let completions = debian.root().join("usr/share/bash-completion/completions/remint");
    assert!(fs::read_to_string(completions).unwrap().contains("machine"));

    let authority = debian.root().join(SITE).join("keys/authority.pem");
    let made = fs::read(&authority).unwrap();
    assert_serves(&debian, owner.uid());

    debian.install(&package("0.1.1"));
    assert_eq!(fs::read(&authority).unwrap(), made, "an upgrade leaves the site as it is");
    assert_serves(&debian, owner.uid());

    debian.run(&["dpkg", "--remove", "remint"]);
    assert!(!debian.root().join("usr/bin/remint").exists());
    assert!(authority.exists(), "the site stays until it is purged");
    debian.run(&["dpkg", "--purge", "remint"]);
    let left: Vec<String> = debian.files().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!fs::read_to_string(debian.root().join("etc/passwd")).unwrap().contains("remint"));
}

#[test]
fn the_service_is_shut_off_from_what_it_does_not_need() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return println!("skipped: `systemd-analyze` is not installed");
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/remint.service");
    let output = Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(unit).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let level = text.lines().find_map(|line| line.split("exposure level for remint.service: ").nth(1)).unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE_MAX, "{level}");
}

/// The package of this checkout under the given version.
fn package(version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deb");
    let mut command = Command::new(script);
    // What cargo tells this test would make it build everything anew.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_TARGET_DIR" && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    let output = command.args(["--debug", "--version", version]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/deb");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// It serves as the unit would start it: as its own user with two capabilities, in a network of its own.
fn assert_serves(debian: &Debian, user: u32) {
    let capabilities = "+net_bind_service,+net_raw";
    let network = "ip link set lo up; ip link add lan0 type veth peer name lan1; ip addr add 10.79.0.1/24 dev lan0; \
                   ip link set lan0 up; ip link set lan1 up";
    let serve = format!(
        "{network}; exec chroot {} setpriv --reuid remint --regid remint --clear-groups --no-new-privs --inh-caps={capabilities} \
         --ambient-caps={capabilities} --bounding-set=-all,{capabilities} remint serve --data /{SITE}",
        debian.root().display()
    );
    let log = fs::File::create(debian.folder.path().join("serve.log")).unwrap();
    let started = Command::new("unshare")
        .args(["--net", "sh", "-c", &serve])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let mut appliance = Running(started.unwrap());
    let page = appliance.page("https://10.79.0.1/login", &debian.folder.path().join("serve.log"));
    assert!(page.contains("Log in"), "{page}");
    let status = fs::read_to_string(format!("/proc/{}/status", appliance.0.id())).unwrap();
    let users = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(users.split_whitespace().skip(1).all(|uid| uid == user.to_string()), "{users}");
    appliance.stop();
}

struct Running(Child);

impl Running {
    /// What `curl` gets in the appliance's network, as soon as it answers.
    fn page(&mut self, url: &str, log: &Path) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let pid = self.0.id().to_string();
            // Before it has entered its own network, this computer's would be asked.
            let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
            if network(&pid) != network("self") {
                let asked = ["-t", &pid, "-n", "curl", "-sk", "--max-time", "20", url];
                let curl = Command::new("nsenter").args(asked).output().unwrap();
                if curl.status.success() {
                    return String::from_utf8(curl.stdout).unwrap();
                }
            }
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no answer:\n{}", fs::read_to_string(log).unwrap());
            sleep(Duration::from_millis(200));
        }
    }

    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success(), "it ends in order when it is told to");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A minimal Debian 12 in a folder.
struct Debian {
    folder: tempfile::TempDir,
}

impl Debian {
    /// Unpacked from an archive that is made once; `None`, with the reason printed, where that is not possible.
    fn bare() -> Option<Debian> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: installing a package into another root needs root");
            return None;
        }
        let tools = ["mmdebstrap", "dpkg-deb", "unshare", "nsenter", "setpriv", "curl", "ip"];
        if let Some(missing) =
            tools.iter().find(|tool| Command::new("which").arg(tool).output().is_ok_and(|o| !o.status.success()))
        {
            println!("skipped: `{missing}` is not installed (scripts/setup)");
            return None;
        }
        let cache = PathBuf::from(std::env::var_os("HOME")?).join(".cache/remint");
        fs::create_dir_all(&cache).unwrap();
        let archive = cache.join("debian-12-bare.tar");
        if !archive.exists() {
            let fresh = cache.join(format!("debian-12-bare.{}.tar", std::process::id()));
            let made =
                Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", "bookworm"]).arg(&fresh).status();
            assert!(made.unwrap().success(), "mmdebstrap");
            fs::rename(&fresh, &archive).unwrap();
        }
        let debian = Debian { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(debian.root()).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(debian.root()).status();
        assert!(unpacked.unwrap().success(), "tar");
        Some(debian)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn install(&self, package: &Path) {
        fs::copy(package, self.root().join("tmp/remint.deb")).unwrap();
        self.run(&["dpkg", "--install", "/tmp/remint.deb"]);
        fs::remove_file(self.root().join("tmp/remint.deb")).unwrap();
    }

    /// A command in it, in a network without anybody.
    fn run(&self, command: &[&str]) {
        let output = Command::new("unshare").args(["--net", "chroot"]).arg(self.root()).args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}:\n{said}");
    }

    /// Everything but what dpkg and adduser keep for themselves.
    fn files(&self) -> BTreeSet<String> {
        let output = Command::new("find").arg(self.root()).args(["-xdev", "-printf", "%P\\n"]).output().unwrap();
        let own = [
            "var/lib/dpkg/",
            "var/log/",
            "run/adduser",
            "etc/passwd",
            "etc/group",
            "etc/shadow",
            "etc/gshadow",
            "etc/subuid",
            "etc/subgid",
            "var/cache/",
        ];
        let files = String::from_utf8(output.stdout).unwrap();
        files.lines().filter(|path| !own.iter().any(|own| path.starts_with(own))).map(str::to_owned).collect()
    }
}
