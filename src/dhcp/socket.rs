//! The sockets of DHCP and the loop that reads them: no decision is made here.
//!
//! [`bind`] takes the ports, so that a port that is already taken is known before anything is served and before
//! privileges are dropped; [`Sockets::serve`] runs until it is told to stop. Leases of requests that come in within some
//! milliseconds go to disk in one transaction, while others are answered; then their acknowledgements leave.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::db::Db;
use crate::dhcp::db;
use crate::dhcp::lease::Lease;
use crate::dhcp::packet::{MessageType, PACKET_BYTES_MAX, Packet};
use crate::dhcp::proxy;
use crate::dhcp::reply::{BootAnswer, Destination, Interface, Reply, Role};
use crate::dhcp::request::{Request, Wish};
use crate::dhcp::scope::Scope;
use crate::dhcp::server::{Notice, OtherServer, Outcome, Server};
use crate::stdx::arp::Arp;
use crate::stdx::datagram::{self, Batch};
use crate::stdx::frame::{ArpSocket, FrameSocket, udp_datagram};
use crate::stdx::hint::Hint;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::Clock;

/// Requests that are read before any is answered.
const BATCH_MAX: usize = 64;
/// Requests to the boot server's port come one at a time.
const BOOT_SERVER_BATCH_MAX: usize = 4;
/// When requests follow each other this fast, as in the morning of a lab, some are let come together before they are read.
const BUSY_WITHIN: Duration = Duration::from_millis(12);
/// How long those wait: less than any client notices, and it spares a wake-up for each.
const BUSY_WAIT: Duration = Duration::from_millis(5);
/// How long the first lease waits for others before all are written: a write costs the disk a round trip however many
/// leases are in it, and a client does not notice.
const GATHER_WAIT: Duration = Duration::from_millis(30);
/// So many are written without waiting longer, unless a write is under way: their answers leave in one burst, and the
/// relay they pass has a receive buffer of the kernel's default size, which holds some 150.
const GATHER_MAX: usize = 80;
/// Leases that wait for the disk at most; whoever asks beyond that is not answered and asks again.
const WAITING_MAX: usize = 4096;
/// Receive buffer of the server port: a thousand requests that come in while a batch is written.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Offers that wait for the answer to a probe at most; in a rush, offers leave unprobed rather than late.
const PROBES_MAX: usize = 64;
/// How long a probe waits: somebody on the same link answers within a millisecond, from its sleep within a tenth of a
/// second; firmware waits for offers for a second at least.
const PROBE_WAIT: Duration = Duration::from_millis(250);
/// Between two warnings of an empty pool.
const QUIET: Duration = Duration::from_secs(10);
/// Other servers that are remembered as reported; a flood of made-up ones is not a flood of log lines.
const REPORTED_MAX: usize = 64;

/// What is served on one interface. Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the network interface, `eth0`, `vlan7`.
    pub interface: String,
    /// Our address on it.
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub mode: Mode,
    pub ports: Ports,
}

/// The decisions and leases of the full server: one for all interfaces, because a relay may come in by any.
pub type Shared = Arc<Mutex<Server>>;

/// Default: `Proxy`.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Beside the network's own server: boot parts only.
    #[default]
    Proxy,
    /// The only DHCP server of its subnets.
    Server(Shared),
}

/// A full server of these subnets with the leases that `db` remembers.
pub fn share(scopes: Vec<Scope>, db: &Db) -> Result<Shared, Error> {
    Ok(Arc::new(Mutex::new(Server::new(scopes, db::load(db)?))))
}

/// Default: 67, 68 and 4011, as the standards have them.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub server: u16,
    pub client: u16,
    pub boot_server: u16,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports { server: 67, client: 68, boot_server: 4011 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("find the network interface {interface}")]
    Interface { interface: String, source: nix::Error },
    #[error("listen on UDP port {port} of {interface}")]
    Bind { interface: String, port: u16, source: io::Error },
    #[error("open a link-layer socket")]
    Frame(#[source] io::Error),
    #[error("read the leases")]
    Leases(#[from] crate::db::Error),
    #[error("receive on UDP port {port}")]
    Receive { port: u16, source: io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Interface { .. } => Some("`ip link` lists the interfaces; set `interface` in remint.toml".into()),
            Error::Bind { port, source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another program holds it (dnsmasq, isc-dhcp-server, kea or a second Remint?): `ss -ulpn sport = :{port}` names it"
            )),
            Error::Bind { source, .. } | Error::Frame(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("start as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW".into())
            }
            _ => None,
        }
    }
}

/// The ports of one interface, taken.
pub struct Sockets {
    settings: Settings,
    interface: Interface,
    interface_index: u32,
    server: Port,
    boot_server: Port,
    frames: FrameSocket,
    arp: ArpSocket,
    /// A second handle of the same socket, by which the runtime knows when something has come in.
    arp_ready: UdpSocket,
}

/// Takes the ports of one interface. Must be called within a tokio runtime.
pub fn bind(settings: Settings) -> Result<Sockets, Error> {
    let name = &settings.interface;
    let interface_index = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(|source| Error::Interface { interface: name.clone(), source })?;
    let arp = ArpSocket::open(interface_index).map_err(Error::Frame)?;
    let arp_ready = arp.as_fd().try_clone_to_owned().map(std::net::UdpSocket::from).and_then(UdpSocket::from_std);
    let open = |port| udp(name, port).map_err(|source| Error::Bind { interface: name.clone(), port, source });
    Ok(Sockets {
        interface: Interface { name: name.clone(), address: settings.address, prefix: settings.prefix },
        interface_index,
        server: open(settings.ports.server)?,
        boot_server: open(settings.ports.boot_server)?,
        frames: FrameSocket::open().map_err(Error::Frame)?,
        arp,
        arp_ready: arp_ready.map_err(Error::Frame)?,
        settings,
    })
}

/// Bound to the device, so that packets of interfaces never mix, and to all addresses, so that broadcasts arrive.
fn udp(interface: &str, port: u16) -> io::Result<Port> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    datagram::set_receive_buffer(socket.as_fd(), RECEIVE_BUFFER_BYTES)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(Port(socket.into()))
}

/// A UDP socket that the runtime watches only while somebody waits for it. One that is watched all the time wakes a thread
/// for each datagram that comes in, also while nobody wants to read it yet.
struct Port(std::net::UdpSocket);

impl Port {
    /// Does `operation`, which does not block, when the socket is ready for it.
    async fn when_ready<T>(&self, for_what: Interest, mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        UdpSocket::from_std(self.0.try_clone()?)?.async_io(for_what, operation).await
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Sockets {
    /// Serves until `stop` resolves. Leases are read from and written to `db`; `boot` gives the boot parts.
    pub async fn serve(
        self,
        db: Arc<Db>,
        clock: Arc<dyn Clock>,
        boot: Arc<BootAnswer>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let server = match &self.settings.mode {
            Mode::Proxy => None,
            Mode::Server(shared) => Some(shared.clone()),
        };
        let mut service = Service {
            sockets: self,
            server,
            db,
            clock,
            boot,
            reported: HashSet::new(),
            held: VecDeque::new(),
            quiet_until: None,
            waiting: Waiting::default(),
            write: None,
            pace: Pace::default(),
        };
        let mut requests = Batch::new(BATCH_MAX, PACKET_BYTES_MAX);
        let mut boot_requests = Batch::new(BOOT_SERVER_BATCH_MAX, PACKET_BYTES_MAX);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => {
                    service.write_the_rest().await;
                    return Ok(());
                }
                written = finished(service.write.as_mut()), if service.write.is_some() => {
                    service.written(written).await;
                }
                () = until(service.waiting.due), if service.write.is_none() && service.waiting.due.is_some() => {
                    service.begin_write();
                }
                received = receive(&service.sockets.server, &mut requests, service.pace.resume) => {
                    let port = service.sockets.settings.ports.server;
                    received.map_err(|source| Error::Receive { port, source })?;
                    service.pace.received(Instant::now());
                    service.answer(&requests).await;
                }
                answered = probe_answer(&service.sockets), if !service.held.is_empty() => {
                    service.probe_answered(answered).await;
                }
                () = until(service.held.front().map(|held| held.due)), if !service.held.is_empty() => {
                    service.send_held().await;
                }
                received = receive(&service.sockets.boot_server, &mut boot_requests, None) => {
                    let port = service.sockets.settings.ports.boot_server;
                    received.map_err(|source| Error::Receive { port, source })?;
                    service.answer_boot_server(&boot_requests).await;
                }
            }
        }
    }
}

/// Waits for datagrams, not before `resume`, and takes those that have come in.
async fn receive(socket: &Port, batch: &mut Batch, resume: Option<Instant>) -> io::Result<()> {
    until(resume).await;
    loop {
        match socket.when_ready(Interest::READABLE, || batch.receive(socket.as_fd())).await {
            // What a datagram of ours met earlier (a port that nobody listens on) comes back here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            received => return received,
        }
    }
}

/// When the server port is looked at next.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    resume: Option<Instant>,
}

impl Pace {
    fn received(&mut self, now: Instant) {
        let busy = self.last.is_some_and(|last| now - last < BUSY_WITHIN);
        self.resume = busy.then(|| now + BUSY_WAIT);
        self.last = Some(now);
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

/// The next ARP packet; one that came in before a probe went out answers none.
async fn probe_answer(sockets: &Sockets) -> Option<Arp> {
    sockets.arp_ready.async_io(Interest::READABLE, || sockets.arp.receive()).await.ok()
}

/// Leases on their way to the disk, and what is sent when they are there.
struct Write {
    task: JoinHandle<Result<(), crate::db::Error>>,
    replies: Vec<Reply>,
}

/// What goes to the disk next.
#[derive(Default)]
struct Waiting {
    due: Option<Instant>,
    leases: Vec<Lease>,
    replies: Vec<Reply>,
}

impl Waiting {
    fn push(&mut self, lease: Lease, reply: Option<Reply>) {
        if self.leases.len() < WAITING_MAX {
            let due = self.due.get_or_insert_with(|| Instant::now() + GATHER_WAIT);
            self.leases.push(lease);
            self.replies.extend(reply);
            if self.leases.len() >= GATHER_MAX {
                *due = Instant::now();
            }
        }
    }
}

/// Whether the leases are on disk.
async fn finished(write: Option<&mut Write>) -> bool {
    let Some(write) = write else { return false };
    match (&mut write.task).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let hint = error.hint().unwrap_or_default();
            tracing::error!(%hint, "leases cannot be stored, so they are not given out: {}", crate::stdx::hint::chain(&error));
            false
        }
        Err(_) => false,
    }
}

/// An offer that waits for the answer to its probe.
struct Held {
    due: Instant,
    address: Ipv4Addr,
    request: Request,
    reply: Reply,
}

struct Service {
    sockets: Sockets,
    /// Present in full mode.
    server: Option<Shared>,
    db: Arc<Db>,
    clock: Arc<dyn Clock>,
    boot: Arc<BootAnswer>,
    /// Other servers that were reported already.
    reported: HashSet<(Ipv4Addr, MacAddr)>,
    /// In the order in which they are due.
    held: VecDeque<Held>,
    /// Until when nothing more is said of empty pools and unknown relays.
    quiet_until: Option<Instant>,
    waiting: Waiting,
    /// Present while leases are being written.
    write: Option<Write>,
    pace: Pace,
}

impl Service {
    /// Port 67: decides for each request. What needs nothing on disk leaves at once.
    async fn answer(&mut self, requests: &Batch) {
        let requests = requests.iter().filter_map(|(bytes, from)| read(bytes, from));
        let replies = requests.filter_map(|request| self.decide(request)).collect();
        self.send(replies).await;
    }

    /// The reply that may leave now. One that needs its lease on disk waits for that, an offer of an address that is
    /// probed first waits for that.
    fn decide(&mut self, request: Request) -> Option<Reply> {
        if let Wish::Select { server, address } = request.wish {
            self.boot.took(request.mac, server, address);
        }
        let interface = &self.sockets.interface;
        let outcome = match &self.server {
            Some(server) => {
                let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
                server.handle(self.clock.now(), interface, &request, &*self.boot)
            }
            None => Outcome { reply: proxy::handle(interface, &request, &*self.boot), ..Outcome::default() },
        };
        if let Some(notice) = outcome.notice {
            self.boot.noticed(&request, &notice);
            self.report(notice);
        }
        match (outcome.store, outcome.reply, outcome.probe) {
            (Some(lease), reply, _) => {
                self.waiting.push(lease, reply);
                None
            }
            (None, Some(reply), Some(address)) if self.probe(address) => {
                let due = Instant::now() + PROBE_WAIT;
                self.held.push_back(Held { due, address, request, reply });
                None
            }
            (None, reply, _) => reply,
        }
    }

    /// Asks who has the address; false where there is no asking now.
    fn probe(&self, address: Ipv4Addr) -> bool {
        let arp = &self.sockets.arp;
        if self.held.is_empty() {
            // What came in while nobody listened is old, and may have filled the buffer.
            while arp.receive().is_ok() {}
        }
        let asked = |sent: io::Result<()>| {
            sent.inspect_err(|error| tracing::warn!(%address, "the offer leaves unprobed: {error}")).is_ok()
        };
        self.held.len() < PROBES_MAX && asked(arp.probe(address))
    }

    /// Somebody said where an address is. When that is one that waits to be offered, and not the client itself, the
    /// client gets another.
    async fn probe_answered(&mut self, answer: Option<Arp>) {
        let Some(Arp { sender, sender_mac, .. }) = answer else { return };
        let sits = |held: &Held| held.address == sender && held.request.mac != sender_mac;
        let Some(held) = self.held.iter().position(sits).and_then(|place| self.held.remove(place)) else { return };
        let in_use = self.server.as_ref().and_then(|server| {
            server.lock().unwrap_or_else(PoisonError::into_inner).in_use(self.clock.now(), sender, sender_mac)
        });
        let Some((resting, notice)) = in_use else { return };
        self.boot.noticed(&held.request, &notice);
        self.report(notice);
        self.waiting.push(resting, None);
        let reply = self.decide(held.request);
        self.send(Vec::from_iter(reply)).await;
    }

    async fn send_held(&mut self) {
        let now = Instant::now();
        let due = std::iter::from_fn(|| self.held.pop_front_if(|held| held.due <= now));
        let replies = due.map(|held| held.reply).collect();
        self.send(replies).await;
    }

    async fn answer_boot_server(&mut self, requests: &Batch) {
        let mut replies = Vec::new();
        for (bytes, from) in requests.iter() {
            let Some(request) = read(bytes, from) else { continue };
            let interface = &self.sockets.interface;
            let Some(reply) = proxy::handle_boot_server(interface, &request, &*self.boot) else { continue };
            let to = if reply.to == Destination::Broadcast { self.client(Ipv4Addr::BROADCAST) } else { from };
            replies.push((reply, to));
        }
        self.transmit(Role::BootServer, &self.sockets.boot_server, replies).await;
    }

    fn begin_write(&mut self) {
        let Waiting { leases, replies, .. } = std::mem::take(&mut self.waiting);
        let db = self.db.clone();
        let task = tokio::task::spawn_blocking(move || db::save(&db, &leases));
        self.write = Some(Write { task, replies });
    }

    /// When the leases could not be written the replies stay unsent: the clients ask again.
    async fn written(&mut self, on_disk: bool) {
        let Some(write) = self.write.take() else { return };
        if on_disk {
            self.send(write.replies).await;
        }
    }

    /// Before the end: nothing that was decided is lost.
    async fn write_the_rest(&mut self) {
        while self.write.is_some() || self.waiting.due.is_some() {
            if self.write.is_none() {
                self.begin_write();
            }
            let on_disk = finished(self.write.as_mut()).await;
            self.written(on_disk).await;
        }
    }

    /// By frames to clients that have no address yet, to all others by UDP.
    async fn send(&self, replies: Vec<Reply>) {
        let by_udp = replies.into_iter().filter_map(|reply| {
            let to = match reply.to {
                Destination::Relay(relay) => SocketAddrV4::new(relay, self.sockets.settings.ports.server),
                Destination::Client(client) => self.client(client),
                Destination::Frame { mac, address } if self.send_frame(&reply, mac, address) => return None,
                Destination::Frame { .. } | Destination::Broadcast => self.client(Ipv4Addr::BROADCAST),
            };
            Some((reply, to))
        });
        let by_udp = by_udp.collect();
        self.transmit(Role::Server, &self.sockets.server, by_udp).await;
    }

    fn send_frame(&self, reply: &Reply, mac: MacAddr, address: Ipv4Addr) -> bool {
        let from = SocketAddrV4::new(self.sockets.interface.address, self.sockets.settings.ports.server);
        let frame = udp_datagram(from, self.client(address), &reply.packet.emit(reply.bytes_max));
        let sent = self.sockets.frames.send(&frame, mac, self.sockets.interface_index).is_ok();
        if sent {
            log_sent(Role::Server, reply, self.client(address), None);
        }
        sent
    }

    /// One that cannot be sent does not keep those behind it.
    async fn transmit(&self, role: Role, socket: &Port, replies: Vec<(Reply, SocketAddrV4)>) {
        let Sockets { interface, interface_index, .. } = &self.sockets;
        let datagrams = replies.iter().map(|(reply, to)| (reply.packet.emit(reply.bytes_max), *to));
        let datagrams: Vec<(Vec<u8>, SocketAddrV4)> = datagrams.collect();
        let mut left = 0..datagrams.len();
        while !left.is_empty() {
            let unsent = &datagrams[left.clone()];
            let send = || datagram::send_many(socket.as_fd(), unsent, interface.address, *interface_index);
            let (passed, outcome) = match socket.when_ready(Interest::WRITABLE, send).await {
                Ok(taken) => (taken.max(1), None),
                Err(error) => (1, Some(error)),
            };
            for (reply, to) in &replies[left.start..left.start + passed] {
                log_sent(role, reply, *to, outcome.as_ref());
            }
            left.start += passed;
        }
    }

    fn client(&self, address: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(address, self.sockets.settings.ports.client)
    }

    /// Logs a notice, once for each other server and machine; what a flood can provoke, once in a while.
    fn report(&mut self, notice: Notice) {
        if matches!(notice, Notice::PoolEmpty(..) | Notice::UnknownLink(_)) {
            let now = Instant::now();
            if self.quiet_until.is_some_and(|until| now < until) {
                return;
            }
            self.quiet_until = Some(now + QUIET);
        }
        if let Notice::OtherServer(OtherServer { server, mac, .. }) = &notice {
            let known = self.reported.len() >= REPORTED_MAX || !self.reported.insert((*server, *mac));
            if known {
                return;
            }
        }
        tracing::warn!(interface = %self.sockets.interface.name, "{notice}");
    }
}

fn read(bytes: &[u8], from: SocketAddrV4) -> Option<Request> {
    let ignored = |what: &str, error: &dyn std::fmt::Display| {
        counter!("remint_dhcp_ignored_total").increment(1);
        tracing::debug!(%from, "{what} ignored: {error}");
    };
    let packet = Packet::parse(bytes).map_err(|error| ignored("packet", &error)).ok()?;
    Request::try_from(packet).map_err(|error| ignored("request", &error)).ok()
}

fn log_sent(role: Role, reply: &Reply, to: SocketAddrV4, error: Option<&io::Error>) {
    let packet = &reply.packet;
    let file = String::from_utf8_lossy(&packet.file);
    let kind = packet.message_type();
    match error {
        None => {
            counter!("remint_dhcp_replies_total", "kind" => kind.map_or("bootp", MessageType::name)).increment(1);
            tracing::debug!(?role, ?kind, %to, address = %packet.yiaddr, %file, "replied");
        }
        Some(error) => {
            counter!("remint_dhcp_unsent_total").increment(1);
            tracing::warn!(?role, ?kind, %to, "the reply could not be sent: {error}");
        }
    }
}
