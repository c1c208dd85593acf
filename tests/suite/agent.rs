//! A real appliance and a real agent on loopback: enrolment, renewal, a baseline, `kill -9`, retirement.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use remint::agent::enrol::{self, Applicant, MachineKey};
use remint::agent::images;
use remint::agent::state::{Folder, Identity};
use remint::imaging;
use remint::imaging::apply::{Options, make_match};
use remint::imaging::chunk::ChunkId;
use remint::imaging::store::format::PackId;
use remint::imaging::store::{ChunkSource, Location};
use remint::imaging::target::Target;
use remint::inventory::hardware;
use remint::link;
use remint::link::client::{Client, authority_fingerprint, fetch_authority};
use remint::software::db::Stored;
use remint::stdx::monitor::Progress;
use remint::stdx::time::{Clock, SystemClock};
use remint::tasksequence::host::Place;
use remint::tasksequence::journal::{Entry, RunResult, What};
use remint::tasksequence::link::{FetchRun, PostEvents, RunOrder};
use remint::tasksequence::model::ItemId;
use serde_json::{Value, json};

/// Everything here takes seconds; a busy computer is given minutes.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the agent may hold in memory while it has nothing to do.
const IDLE_KIBIBYTES_MAX: u64 = 15 << 10;
const MINUTES: &str = "certificate_minutes = 1\n";

struct Bench {
    folder: tempfile::TempDir,
    https: u16,
    http: u16,
    appliance: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.appliance.kill();
        let _ = self.appliance.wait();
    }
}

impl Bench {
    /// A site that is served on loopback with these settings of enrolment; `None` where this user may not.
    fn serve(enrolment: &str) -> Option<Bench> {
        let folder = tempfile::tempdir().unwrap();
        remint(&folder.path().join("site"), &["init"]);
        Bench::serve_site(folder, free_port(), enrolment)
    }

    /// Serves the folder `site` in `folder`.
    fn serve_site(folder: tempfile::TempDir, https: u16, enrolment: &str) -> Option<Bench> {
        let (site, http) = (folder.path().join("site"), free_port());
        let tftp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let network = format!(
            "[network]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\nhttps_port = {https}\nhttp_port = {http}\n\
             tftp_port = {tftp}\n[dhcp]\nmode = \"off\"\n[enrolment]\n{enrolment}"
        );
        fs::write(site.join("remint.toml"), network).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
        let command = command.args(["serve", "--data"]).arg(&site).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut appliance = command.spawn().unwrap();
        let lines = BufReader::new(appliance.stdout.take().unwrap()).lines();
        let (sender, receiver) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let served =
            std::iter::from_fn(|| receiver.recv_timeout(PATIENCE).ok()).any(|line| line.contains("Remint serves"));
        let bench = Bench { folder, https, http, appliance };
        // The reader of the appliance's output must live as long as the appliance.
        std::thread::spawn(move || receiver.iter().for_each(drop));
        served.then_some(bench)
    }

    fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.https)
    }

    fn authority(&self) -> String {
        fs::read_to_string(self.site().join("keys/authority.pem")).unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&remint(&self.site(), &[arguments, &["--json"]].concat())).unwrap()
    }

    /// Enrols this computer; a person approves it when it shows its code. The agent's folder comes of it.
    fn enrol(&self) -> PathBuf {
        let path = self.folder.path().join("agent");
        let applicant = Applicant::installed_system(hardware::collect(Path::new("/")));
        let stranger = Client::new(&self.server(), &self.authority(), None).unwrap();
        let key = MachineKey::make().unwrap();
        let code = key.pairing_code();
        let enrolled = enrol::enrol(&stranger, key, &applicant, &mut |_, _| {
            let waiting = self.ask(&["machine", "list", "--state", "waiting"]);
            let machine = &waiting.as_array().unwrap()[0];
            assert_eq!(machine["pairing_code"], code, "both ends show the same code");
            remint(&self.site(), &["machine", "approve", machine["name"].as_str().unwrap()]);
            None
        })
        .unwrap();
        let identity = Identity::new(&self.server(), &self.authority(), &enrolled, SystemClock.now());
        Folder::open(&path).unwrap().save_identity(&identity).unwrap();
        path
    }

    /// An archive with a program that puts a file into `target`, or fails.
    fn add_package(&self, name: &str, target: &Path, script: &str) {
        let folder = self.folder.path().join("packages").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("install.sh"), format!("#!/bin/sh\n{script}\n")).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["-C"]).arg(&folder).args(["--mode=0755", "-cf"]);
        assert!(tar.arg(folder.join("payload.tar")).arg("install.sh").status().unwrap().success());
        let description = format!(
            "name: {name}\nversion: '1'\npayload: payload.tar\ninstall: {{archive: {{run: [./install.sh]}}}}\n\
             detect: [{{file: {{path: {}}}}}]\n",
            target.join(name).display()
        );
        fs::write(folder.join("package.yaml"), description).unwrap();
        remint(&self.site(), &["package", "add", folder.join("package.yaml").to_str().unwrap()]);
    }

    fn apply_baseline(&self, text: &str) {
        let file = self.folder.path().join("baseline.yaml");
        fs::write(&file, text).unwrap();
        remint(&self.site(), &["baseline", "apply", file.to_str().unwrap()]);
    }

    fn compliance(&self) -> Vec<Value> {
        self.ask(&["baseline", "compliance"]).as_array().unwrap().clone()
    }
}

/// Runs `remint ARGUMENTS --data SITE`; what it printed.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn remint(site: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_remint")).args(arguments).arg("--data").arg(site).output().unwrap();
    assert!(output.status.success(), "remint {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The agent's service as a process; its lines are kept.
struct Agent {
    process: Child,
    said: Arc<Mutex<String>>,
    /// Each line as it comes.
    lines: Receiver<String>,
}

impl Agent {
    fn start(folder: &Path) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint-agent"));
        let command = command.args(["service", "--folder"]).arg(folder).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (kept, output) = (said.clone(), process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| {
                let mut said = kept.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
                let _ = sender.send(line);
            });
        });
        Agent { process, said, lines }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn wait_to_say(&self, words: &str) {
        wait(&format!("the agent says `{words}`"), || {
            self.said().contains(words).then_some(()).ok_or_else(|| self.said())
        });
    }

    fn resident_kibibytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Looks until it is so; the last thing that was seen is in the failure.
fn wait<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > PATIENCE => panic!("{what} did not come to be: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[test]
fn an_attacker_with_another_authority_is_not_believed() {
    let Some(bench) = Bench::serve("") else { return println!("skipped: the appliance cannot be served here") };
    let url = format!("http://127.0.0.1:{}/boot/authority.pem", bench.http);
    let right = authority_fingerprint(&bench.authority()).unwrap();
    assert_eq!(fetch_authority(&url, &right).unwrap(), bench.authority());
    let wrong = fetch_authority(&url, &"ab".repeat(32)).unwrap_err();
    assert!(matches!(&wrong, link::Error::Authority { found, .. } if *found == right), "{wrong}");
    let other = tempfile::tempdir().unwrap();
    remint(&other.path().join("site"), &["init"]);
    let authority = fs::read_to_string(other.path().join("site/keys/authority.pem")).unwrap();
    let client = Client::new(&bench.server(), &authority, None).unwrap();
    let refused = client.get("/boot/authority.pem", 1 << 16).unwrap_err();
    assert!(matches!(refused, link::Error::Reach { .. }), "a server of another site is not spoken to: {refused}");
}

#[test]
fn a_certificate_is_renewed_by_itself_and_retirement_cuts_the_machine_off() {
    let Some(bench) = Bench::serve(MINUTES) else { return println!("skipped: the appliance cannot be served here") };
    let folder = bench.enrol();
    let before = Folder::open(&folder).unwrap().identity().unwrap().unwrap();
    let agent = Agent::start(&folder);
    agent.wait_to_say("the certificate was renewed");
    let after = Folder::open(&folder).unwrap().identity().unwrap().unwrap();
    assert!(after.certificate_pem != before.certificate_pem && after.key_pem == before.key_pem);
    drop(agent);
    // Off for longer than the certificate lasts: it checks in again with the key that was approved.
    let ended = Identity { certificate_pem: before.certificate_pem.clone(), ..after };
    let valid_until = Instant::now();
    wait("the first certificate has ended", || {
        let client = Client::new(&bench.server(), &bench.authority(), ended.credentials().as_ref()).unwrap();
        match client.call(&remint::software::link::FetchPolicy {}) {
            Err(error) if error.is_refused_certificate() => Ok(()),
            other => Err(format!("{:?} after {:?}", other.is_ok(), valid_until.elapsed())),
        }
    });
    Folder::open(&folder).unwrap().save_identity(&ended).unwrap();
    let agent = Agent::start(&folder);
    agent.wait_to_say("let in as");
    let name = ended.name.clone();
    remint(&bench.site(), &["machine", "retire", &name]);
    drop(agent);
    let agent = Agent::start(&folder);
    agent.wait_to_say("this machine was retired");
    remint(&bench.site(), &["audit", "verify"]);
}

/// A system that something else has installed.
#[test]
fn an_installed_system_enrols_by_a_code_that_is_typed_and_only_once() {
    let Some(bench) = Bench::serve("") else { return println!("skipped: the appliance cannot be served here") };
    let made = bench.ask(&["enrolment", "code", "--label", "server room", "--collection", "servers"]);
    let code = made["code"].as_str().unwrap();
    let folder = bench.folder.path().join("joined");
    let fingerprint = authority_fingerprint(&bench.authority()).unwrap();
    let http = format!("http://127.0.0.1:{}", bench.http);
    let enrol = |authority: &str, typed: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint-agent"));
        command.args(["enrol", &bench.server(), authority, "--http", &http, "--folder"]).arg(&folder);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(process.stdin.take().unwrap(), "{typed}").unwrap();
        let output = process.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (well, said) = enrol(&"ab".repeat(32), code);
    assert!(!well && said.contains(&fingerprint), "another authority is not believed: {said}");
    let (well, said) = enrol(&fingerprint, code);
    assert!(well && said.contains("pairing code") && said.contains("enrolled as"), "{said}");
    assert!(!said.contains(code), "the code is not shown: {said}");
    let machine = &bench.ask(&["machine", "list"])[0];
    assert_eq!((&machine["state"], &machine["approved_by"]), (&"approved".into(), &"code:server room".into()));
    assert_eq!(bench.ask(&["collection", "show", "servers"])["machines"][0]["id"], machine["id"]);
    let (well, said) = enrol(&fingerprint, code);
    assert!(!well && said.contains("already"), "{said}");
    let _agent = Agent::start(&folder);
    wait("the agent reports", || {
        let record = bench.ask(&["machine", "show", machine["name"].as_str().unwrap()]);
        if record["software"].is_object() { Ok(()) } else { Err(record.to_string()) }
    });
}

/// Five packages and five settings; the agent is killed after each thing it says for the first time.
#[test]
fn a_baseline_converges_through_kill_nine_at_every_step_and_drift_is_mended() {
    let Some(bench) = Bench::serve("") else { return println!("skipped: the appliance cannot be served here") };
    let target = bench.folder.path().join("target");
    fs::create_dir_all(&target).unwrap();
    let names = ["one", "two", "three", "four"];
    for name in names {
        bench.add_package(name, &target, &format!("echo {name} > {}", target.join(name).display()));
    }
    bench.add_package("unlucky", &target, "echo no luck today; exit 3");
    let settings: String = (1..=5)
        .map(|n| format!("  - file: {{path: {}/setting-{n}, content: 'n {n}', mode: '0640'}}\n", target.display()))
        .collect();
    bench.apply_baseline(&format!("name: base\npackages: [one, two, three, four, unlucky]\nsettings:\n{settings}"));
    let folder = bench.enrol();
    let kills = kill_at_every_step(&folder);
    println!("the agent was killed {kills} times");
    assert!(kills >= 15, "five settings, five packages that are announced and told: {kills}");
    let agent = Agent::start(&folder);
    let standing = wait("every package and setting is reported", || {
        let all = bench.compliance();
        if all.len() == 10 { Ok(all) } else { Err(format!("{all:?} {}", agent.said())) }
    });
    for finding in standing.iter().filter(|finding| finding["package"] != "unlucky") {
        assert!(["held", "installed"].contains(&finding["state"].as_str().unwrap()), "{finding}");
    }
    assert_failed(&standing, "its installer ended with 3");
    assert!(names.iter().all(|name| target.join(name).exists()));
    wait("the agent is idle and small", || {
        let kibibytes = agent.resident_kibibytes();
        if kibibytes <= IDLE_KIBIBYTES_MAX { Ok(()) } else { Err(format!("{kibibytes} KiB")) }
    });
    println!("the idle agent holds {} KiB", agent.resident_kibibytes());
    drop(agent);
    fs::remove_file(target.join("two")).unwrap();
    fs::write(target.join("setting-3"), "changed").unwrap();
    a_quarter_of_an_hour_passes(&folder);
    let _agent = Agent::start(&folder);
    wait("drift is mended", || {
        let mended = target.join("two").exists() && fs::read_to_string(target.join("setting-3")).unwrap() == "n 3";
        if mended { Ok(()) } else { Err(format!("{:?}", bench.compliance())) }
    });
    wait("what failed is tried again, and reported", || {
        let all = bench.compliance();
        let again = all.iter().any(|finding| finding["reason"].to_string().contains("(tried 2 times)"));
        if again { Ok(all) } else { Err(format!("{all:?}")) }
    });
    assert_failed(&bench.compliance(), "its installer ended with 3 (tried 2 times)");
}

/// Starts the agent and kills it as soon as it says what no agent has said before, until there is nothing new: what it says
/// is a step begun or done. How often it was killed.
fn kill_at_every_step(folder: &Path) -> usize {
    let mut known = std::collections::BTreeSet::new();
    loop {
        let agent = Agent::start(folder);
        loop {
            let line = agent.lines.recv_timeout(PATIENCE).expect("the agent says something new, or is done");
            // The last of the round, in the order of the baseline.
            let last = line.starts_with("unlucky 1: failed");
            match (known.insert(line), last) {
                (true, _) => break,
                (false, true) => return known.len(),
                (false, false) => {}
            }
        }
    }
}

/// The package that fails is reported with the reason and the output of its installer.
fn assert_failed(standing: &[Value], reason: &str) {
    let unlucky = standing.iter().find(|finding| finding["package"] == "unlucky").unwrap();
    assert_eq!((&unlucky["state"], &unlucky["reason"]), (&"failed".into(), &reason.into()), "{unlucky}");
    assert!(unlucky["output"].as_str().unwrap().contains("no luck today"), "{unlucky}");
}

/// What the agent has written down about its next tries is made due.
fn a_quarter_of_an_hour_passes(folder: &Path) {
    let path = folder.join("spool/memory.json");
    let mut memory: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let due = &mut memory["attempts"]["unlucky"]["next_at"];
    *due = (due.as_i64().unwrap() - 15 * 60_000).into();
    fs::write(&path, memory.to_string()).unwrap();
}

/// A payload of which one byte in twenty has changed.
#[test]
fn an_upgrade_fetches_the_difference() {
    let Some(bench) = Bench::serve("") else { return println!("skipped: the appliance cannot be served here") };
    const BYTES: usize = 200 << 20;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut payload: Vec<u8> = (0..BYTES)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 56) as u8
        })
        .collect();
    let add = |version: &str, payload: &[u8]| -> Stored {
        let folder = bench.folder.path().join(version);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("tool"), payload).unwrap();
        let text = format!(
            "name: tool\nversion: '{version}'\npayload: tool\ninstall: {{script: {{}}}}\ndetect: [{{file: {{path: /x}}}}]\n"
        );
        fs::write(folder.join("tool.yaml"), text).unwrap();
        remint(&bench.site(), &["package", "add", folder.join("tool.yaml").to_str().unwrap()]);
        serde_json::from_value(bench.ask(&["package", "show", &format!("tool@{version}")])).unwrap()
    };
    let identity = Folder::open(&bench.enrol()).unwrap().identity().unwrap().unwrap();
    let client = Client::new(&bench.server(), &bench.authority(), identity.credentials().as_ref()).unwrap();
    let target = bench.folder.path().join("payload");
    let apply = |stored: &Stored| {
        images::apply_file(&client, &identity.site_public_key, &stored.content.version, &target, None).unwrap()
    };
    let first = apply(&add("1", &payload));
    assert!(first.wire_bytes as usize >= BYTES, "random bytes do not compress: {}", first.wire_bytes);
    // Five parts of one per cent each.
    for part in 0..5 {
        let start = part * BYTES / 5 + 12_345;
        payload[start..start + BYTES / 100].iter_mut().for_each(|byte| *byte = !*byte);
    }
    let second = apply(&add("2", &payload));
    assert!(fs::read(&target).unwrap() == payload);
    let share = second.wire_bytes as f64 / BYTES as f64;
    println!(
        "an upgrade of {BYTES} bytes with 5 % changed fetched {} bytes, {:.1} %",
        second.wire_bytes,
        share * 100.0
    );
    assert!(share < 0.10, "{share}");
}

/// A source that does something before its third read.
struct BeforeThirdRead<'a> {
    source: Box<dyn ChunkSource>,
    reads: AtomicUsize,
    act: &'a (dyn Fn() + Sync),
}

impl ChunkSource for BeforeThirdRead<'_> {
    fn name(&self) -> String {
        self.source.name()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, imaging::error::Error> {
        self.source.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, imaging::error::Error> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == 2 {
            (self.act)();
        }
        self.source.read_range(pack, offset, len)
    }
}

#[test]
fn an_image_comes_from_a_mirror_and_from_the_appliance_when_that_dies() {
    let port = free_port();
    let Some(bench) = Bench::serve(&format!("[delivery]\nmirrors = [\"https://127.0.0.1:{port}\"]\n")) else {
        return println!("skipped: the appliance cannot be served here");
    };
    let mut content = vec![0; 24 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    let file = bench.folder.path().join("disk.raw");
    fs::write(&file, &content).unwrap();
    let imported = bench.ask(&["image", "import", file.to_str().unwrap(), "--name", "disk"]);
    let version = imported["id"].as_str().unwrap_or_else(|| panic!("{imported}")).to_owned();
    let identity = Folder::open(&bench.enrol()).unwrap().identity().unwrap().unwrap();
    let client = Client::new(&bench.server(), &bench.authority(), identity.credentials().as_ref()).unwrap();
    let apply = |name: &str, act: &(dyn Fn() + Sync)| {
        let (manifest, source) = images::open(&client, &identity.site_public_key, &version).unwrap();
        let source = BeforeThirdRead { source, reads: AtomicUsize::new(0), act };
        let out = bench.folder.path().join(name);
        let target = Target::file(&out).unwrap();
        let options = Options { workers: 1, ..Options::default() };
        make_match(&manifest, &source, &target, &options, &Progress::default(), &mut |_| {}).unwrap();
        assert!(fs::read(out).unwrap() == content && source.reads.into_inner() > 4, "{name}");
    };
    // The mirror is named and not there yet.
    apply("without", &|| ());

    let (backups, folder) = (bench.folder.path().join("backups"), tempfile::tempdir().unwrap());
    remint(&bench.site(), &["backup", backups.to_str().unwrap()]);
    remint(&folder.path().join("site"), &["restore", backups.to_str().unwrap()]);
    let mirror = Bench::serve_site(folder, port, "").unwrap();
    let signal = |bench: &Bench, signal: &str| {
        let pid = bench.appliance.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    // All of it comes from the mirror: the appliance does nothing any more.
    apply("from-mirror", &|| signal(&bench, "-STOP"));
    signal(&bench, "-CONT");
    // The rest comes from the appliance.
    apply("from-both", &|| signal(&mirror, "-KILL"));
}

/// A disk image is on one machine, on its way to another, and damaged.
#[test]
fn scrub_names_the_machines_that_hold_what_is_damaged_or_wait_for_it() {
    let Some(bench) = Bench::serve("") else { return println!("skipped: the appliance cannot be served here") };
    let import = |name: &str, seed: u8| {
        let path = bench.folder.path().join(name);
        let mut bytes = vec![0; 3 << 20];
        bytes[1 << 20..].iter_mut().zip(0u32..).for_each(|(byte, n)| *byte = (n.wrapping_mul(n) >> 9) as u8 ^ seed);
        fs::write(&path, bytes).unwrap();
        remint(&bench.site(), &["image", "import", path.to_str().unwrap(), "--name", name]);
        let text = format!("name: put-{name}\nsteps:\n  - apply-image: {{ image: {name} }}\n");
        let file = bench.folder.path().join("sequence.yaml");
        fs::write(&file, text).unwrap();
        remint(&bench.site(), &["sequence", "publish", file.to_str().unwrap()]);
    };
    import("sound", 1);
    let packs_of_sound = files_below(&bench.site().join("store/packs"));
    import("broken", 2);
    let identity = Folder::open(&bench.enrol()).unwrap().identity().unwrap().unwrap();
    let client = Client::new(&bench.server(), &bench.authority(), identity.credentials().as_ref()).unwrap();
    let scrub = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
        let output = command.args(["store", "scrub", "--json", "--data"]).arg(bench.site()).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), said["machines"].clone())
    };
    let start = |name: &str| {
        bench.ask(&["deploy", "start", &format!("put-{name}"), "--machine", &identity.name, "--yes", "1"]);
        client.call(&FetchRun { place: Place::BootEnvironment }).unwrap().order.unwrap()
    };
    let order = start("broken");
    assert_eq!(scrub(), (true, json!({})), "nothing is damaged");
    for pack in files_below(&bench.site().join("store/packs")).iter().filter(|pack| !packs_of_sound.contains(pack)) {
        let file = fs::File::options().write(true).open(pack).unwrap();
        file.write_all_at(&[0xFF; 40], 500).unwrap();
    }
    let named = json!({ "broken@1": [identity.name] });
    assert_eq!(scrub(), (false, named.clone()), "it is on its way there");
    end(&client, &order, RunResult::Succeeded);
    assert_eq!(scrub(), (false, named.clone()), "it is there");
    let text = Command::new(env!("CARGO_BIN_EXE_remint")).args(["store", "scrub", "--data"]).arg(bench.site()).output();
    let said = String::from_utf8_lossy(&text.unwrap().stdout).into_owned();
    assert!(said.contains(&format!("broken@1 is on, or on its way to: {}", identity.name)), "{said}");
    end(&client, &start("sound"), RunResult::Failed);
    assert_eq!(scrub(), (false, named), "a run that failed put nothing else there");
    end(&client, &start("sound"), RunResult::Succeeded);
    assert_eq!(scrub(), (false, json!({})), "it holds the other image now");
}

/// Reports the end of a run as its machine would, without carrying it out.
fn end(client: &Client, order: &RunOrder, result: RunResult) {
    let at = SystemClock.now();
    let ended = Entry { at, item: ItemId(String::new()), what: What::Ended { result } };
    let message = PostEvents {
        run: order.run.clone(),
        journal_from: 0,
        journal: vec![ended],
        boot: "boot".into(),
        lines_from: 0,
        lines: Vec::new(),
        progress: None,
        restart: None,
        sent_at: at,
    };
    client.call(&message).unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
