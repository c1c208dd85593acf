//! The program with its store in a bucket of a real S3 server (moto, which scripts/test installs), and what happens when
//! that server is gone, cuts answers short or gives other bytes.

#![expect(clippy::print_stdout, reason = "a test says what it skips")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::thread;

/// Bytes of an answer that a damaging proxy lets through unharmed: its head, and answers that are no packs.
const UNHARMED_BYTES: usize = 20_000;

struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    fn start() -> Option<Moto> {
        let program = Path::new(env!("CARGO_BIN_EXE_remint")).ancestors().nth(2)?.join("moto/bin/moto_server");
        if !program.exists() {
            println!("skipped: moto, an S3 server, is not in {}", program.display());
            return None;
        }
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("Running on http://"))).unwrap();
        let address = line.split("http://").nth(1).unwrap().trim().parse().unwrap();
        // Whoever does not read what a server writes stops it.
        thread::spawn(move || lines.for_each(drop));
        Some(Moto { process, address })
    }

    fn create_bucket(&self) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = "PUT /remint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the proxy between the program and the server does to answers.
#[derive(Clone, Copy)]
enum Harm {
    None = 0,
    Refuse = 1,
    CutShort = 2,
    Flip = 3,
}

struct Proxy {
    address: SocketAddr,
    harm: Arc<AtomicU8>,
}

impl Proxy {
    fn before(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, harm) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(0)));
        let shared = harm.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.load(SeqCst) == Harm::Refuse as u8 {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let harm = shared.load(SeqCst);
                let (mut from_client, mut to_server) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
                thread::spawn(move || answer(upstream, client, harm));
            }
        });
        Proxy { address, harm }
    }

    fn set(&self, harm: Harm) {
        self.harm.store(harm as u8, SeqCst);
    }
}

fn answer(mut from: TcpStream, mut to: TcpStream, harm: u8) {
    let (mut sent, mut buffer) = (0, vec![0; 8192]);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if sent > UNHARMED_BYTES && harm == Harm::CutShort as u8 {
            break;
        }
        if sent > UNHARMED_BYTES && harm == Harm::Flip as u8 {
            buffer[read / 2] ^= 1;
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        sent += read;
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn create(endpoint: SocketAddr) -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        site.sound(&["init"]);
        fs::write(site.path("site/keys/s3"), "secret\n").unwrap();
        let text = format!(
            "[store]\nnear_gib = 0\n[[store.far]]\nbucket = \"remint\"\nendpoint = \"http://{endpoint}\"\nprefix = \"site-1/\"\n\
             access_key = \"lab\"\nsecret_key_file = \"keys/s3\"\n"
        );
        fs::write(site.path("site/remint.toml"), text).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
        command.arg("--data").arg(self.path("site")).args(arguments);
        command.output().unwrap()
    }

    fn sound(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    fn failing(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn import(&self, name: &str, bytes: &[u8]) -> Vec<String> {
        fs::write(self.path(name), bytes).unwrap();
        let file = self.path(name).display().to_string();
        ["image", "import", &file, "--name", name].map(str::to_owned).to_vec()
    }

    fn near_packs(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.path("site/store/packs")).unwrap().map(|entry| entry.unwrap().path());
        folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
    }

    /// Exports `image` to a new file and gives its bytes.
    fn export(&self, image: &str, to: &str) -> Vec<u8> {
        self.sound(&["image", "export", image, &self.path(to).display().to_string()]);
        fs::read(self.path(to)).unwrap()
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn images_lie_in_a_bucket_and_come_back_whatever_happens_on_the_way() {
    let Some(moto) = Moto::start() else { return };
    moto.create_bucket();
    let proxy = Proxy::before(moto.address);
    let site = Site::create(proxy.address);
    let (first, second) = (noise(1, 3 << 20), noise(2, 150_000));
    site.sound(&words(&site.import("first", &first)));
    site.sound(&words(&site.import("second", &second)));
    assert_eq!(site.near_packs().len(), 1, "with near_gib = 0 only what was used last stays");
    assert_eq!(site.export("first", "first.out"), first);

    for (harm, said) in
        [(Harm::CutShort, "did not answer"), (Harm::Flip, "what it gave as packs/"), (Harm::Refuse, "did not answer")]
    {
        proxy.set(harm);
        site.near_packs().iter().for_each(|pack| fs::remove_file(pack).unwrap());
        let error = site.failing(&["image", "verify", "second"]);
        assert!(error.contains(said), "{error}");
        assert!(site.near_packs().is_empty(), "what came damaged was kept: {error}");
    }
    let error = site.failing(&words(&site.import("third", &noise(3, 1 << 20))));
    assert!(error.contains("did not answer"), "{error}");
    proxy.set(Harm::None);
    assert_eq!(site.export("second", "second.out"), second);
    let listed = site.sound(&["image", "list"]);
    assert!(!listed.contains("third"), "{listed}");
    site.sound(&words(&site.import("third", &noise(3, 1 << 20))));

    // The site's folder of images is lost; its keys are not.
    for folder in ["packs", "versions", "far"] {
        fs::remove_dir_all(site.path("site/store").join(folder)).unwrap();
        fs::create_dir(site.path("site/store").join(folder)).unwrap();
    }
    let said = site.sound(&["store", "sync"]);
    assert!(said.contains("found 3 packs and 3 versions"), "{said}");
    assert_eq!(site.export("first", "first.back"), first);
    site.sound(&["image", "remove", "second@1"]);
    assert!(!site.sound(&["image", "list"]).contains("second"));
}
