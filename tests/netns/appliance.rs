//! The network boot half of the appliance, in the bridge's namespace.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use remint::db::Db;
use remint::dhcp;
use remint::dhcp::lease::Lease;
use remint::dhcp::scope::Scope;
use remint::dhcp::socket::{self, Mode, Ports};
use remint::fleet::directory::Directory;
use remint::pxe;
use remint::pxe::boot::Config;
use remint::pxe::local::BootFiles;
use remint::pxe::names::{Netboot, tftp_lookup};
use remint::pxe::recorder::Recorder;
use remint::pxe::tftp::socket::{Settings, TransferPorts};
use remint::stdx::time::{Clock, ManualClock, SystemClock};
use tokio::sync::watch;

use crate::lan::{self, Lan};

pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub(crate) struct Appliance {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) recorder: Arc<Recorder>,
    /// The recorder's own: minutes pass for it without being waited for.
    pub(crate) clock: Arc<ManualClock>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Setup {
    /// Of the full server; none for the proxy.
    pub(crate) scopes: Option<Vec<Scope>>,
    pub(crate) config: Config,
    pub(crate) transfer_ports: TransferPorts,
}

pub(crate) fn proxy() -> Setup {
    Setup { scopes: None, config: Config::default(), transfer_ports: TransferPorts::Many }
}

/// Full server: 10.77.0.100 to 10.77.0.199, and the network 10.78.0.0/24 behind a relay.
pub(crate) fn server() -> Setup {
    let mut scope = Scope::around(ADDRESS, 24);
    scope.range = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 199));
    scope.gateway = Some(ADDRESS);
    scope.dns = vec![ADDRESS];
    let mut remote = Scope::around(Ipv4Addr::new(10, 78, 0, 1), 24);
    remote.range = (Ipv4Addr::new(10, 78, 0, 50), Ipv4Addr::new(10, 78, 0, 60));
    Setup { scopes: Some(vec![scope, remote]), ..proxy() }
}

impl Appliance {
    /// Starts with boot files `(name, content)` and waits until the ports are taken.
    pub(crate) fn start(lan: &Lan, setup: Setup, files: &[(&str, &[u8])]) -> Appliance {
        let folder = tempfile::tempdir().unwrap();
        let boot = folder.path().join("boot");
        std::fs::create_dir(&boot).unwrap();
        for (name, content) in files {
            std::fs::write(boot.join(name), content).unwrap();
        }
        Appliance::in_folder(lan, setup, folder)
    }

    pub(crate) fn in_folder(lan: &Lan, setup: Setup, folder: tempfile::TempDir) -> Appliance {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let path = folder.path().to_owned();
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let recorder = Arc::new(Recorder::new(clock.clone()));
        let own = recorder.clone();
        let thread = lan::within(lan.space(), move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(serve(path, setup, own, stopped, ready));
        });
        is_ready.recv().unwrap();
        Appliance { folder, recorder, clock, stop, thread: Some(thread) }
    }

    /// Ends it, and gives back its folder for another.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        self.stop.send(true).unwrap();
        self.thread.take().unwrap().join().unwrap();
        self.folder
    }

    pub(crate) fn leases(&self) -> Vec<Lease> {
        dhcp::db::load(&open_db(self.folder.path().join("db"))).unwrap()
    }
}

fn open_db(path: PathBuf) -> Db {
    Db::open(&path, &[dhcp::db::MIGRATIONS], SystemClock.now()).unwrap()
}

/// RUST_LOG=remint=debug shows what the appliance says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

async fn serve(
    folder: PathBuf,
    setup: Setup,
    recorder: Arc<Recorder>,
    stopped: watch::Receiver<bool>,
    ready: std::sync::mpsc::Sender<()>,
) {
    log();
    let netboot = Netboot {
        directory: Arc::new(Directory::default()),
        config: Arc::new(setup.config),
        files: Arc::new(BootFiles::open(&folder.join("boot")).unwrap()),
        recorder,
        address: ADDRESS,
    };
    let db = Arc::new(open_db(folder.join("db")));
    let mode = setup.scopes.map_or(Mode::Proxy, |scopes| Mode::Server(socket::share(scopes, &db).unwrap()));
    let settings =
        socket::Settings { interface: "br0".into(), address: ADDRESS, prefix: 24, mode, ports: Ports::default() };
    let tftp = Settings { transfer_ports: setup.transfer_ports, ..Settings::at(ADDRESS) };
    let (dhcp, tftp) = (socket::bind(settings).unwrap(), pxe::tftp::socket::bind(tftp).unwrap());
    let http = tokio::net::TcpListener::bind((ADDRESS, netboot.config.http_port)).await.unwrap();
    let gate = Arc::new(remint::access::db::Gate::new(db.clone(), Arc::new(SystemClock)));
    let (_, plain) = pxe::api::routes(netboot.clone()).routers(&gate);
    ready.send(()).unwrap();
    let stop = || {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };
    let boot = pxe::answer::answer(netboot.clone());
    let (dhcp, tftp, ()) = tokio::join!(
        dhcp.serve(db, Arc::new(SystemClock), boot, stop()),
        tftp.serve(tftp_lookup(netboot), Arc::new(SystemClock), stop()),
        remint::server::serve_http(http, plain, stopped.clone()),
    );
    dhcp.unwrap();
    tftp.unwrap();
}
