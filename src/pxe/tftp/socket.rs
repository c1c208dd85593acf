//! The sockets of TFTP: one listens for requests, each transfer has one of its own (or shares the first, for clients
//! behind firewalls that let only port 69 through).
//!
//! [`bind`] takes the port; [`Listener::serve`] runs until it is told to stop. Memory is bounded: transfers are capped
//! for each client and in total, and those whose client never answered make room first, so that a flood of made-up
//! addresses cannot keep a real machine from booting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use metrics::counter;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::pxe::local::Content;
use crate::pxe::recorder::Ended;
use crate::pxe::tftp::packet::{ErrorCode, Packet, ReadRequest, emit_error};
use crate::pxe::tftp::session::{Session, Step};
use crate::stdx::datagram;
use crate::stdx::hint::Hint;
use crate::stdx::time::{Clock, Timestamp};

/// Receive buffer of the listening socket: some thousand requests at once.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Packets of one client that wait for its transfer; a window's acknowledgements fit many times over.
const INBOX_PACKETS: usize = 64;
/// The largest packet a client sends is its request.
const PACKET_BYTES_MAX: usize = 1500;
/// udp(7): what one call with UDP_SEGMENT takes.
const SEGMENTS_MAX: usize = 64;
const SEGMENTED_BYTES_MAX: usize = 65_000;

/// Where files come from and what became of them is told.
pub trait Library: Send + Sync {
    /// Which file a client gets for a name; none is "file not found". Looks up a table, never a path.
    fn content(&self, name: &str, client: Ipv4Addr) -> Option<Content>;

    /// A transfer is over.
    fn ended(&self, name: &str, client: Ipv4Addr, ended: Ended);
}

/// How transfers leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransferPorts {
    /// A port of its own for each transfer (RFC 1350 section 4).
    #[default]
    Many,
    /// All from the listening port: some firewalls and NATs let nothing else through, and firmware takes it.
    Single,
}

/// Plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our address; requests to others are not answered.
    pub address: Ipv4Addr,
    /// Default 69.
    pub port: u16,
    pub transfer_ports: TransferPorts,
    /// Largest block, default 1468: an Ethernet frame less the headers of IP, UDP and TFTP.
    pub block_bytes_max: u16,
    /// Transfers of one client at once, default 16.
    pub client_transfers_max: usize,
    /// Transfers at once in all, default 1024: what a flood of made-up requests costs in memory.
    pub transfers_max: usize,
}

impl Settings {
    pub fn at(address: Ipv4Addr) -> Settings {
        Settings {
            address,
            port: 69,
            transfer_ports: TransferPorts::Many,
            block_bytes_max: 1468,
            client_transfers_max: 16,
            transfers_max: 1024,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on UDP port {port} of {address}")]
    Bind { address: Ipv4Addr, port: u16, source: io::Error },
    #[error("receive on UDP port {port}")]
    Receive { port: u16, source: io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Bind { port, source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another program holds it (tftpd-hpa, atftpd, dnsmasq or a second Remint?): `ss -ulpn sport = :{port}` names it"
            )),
            Error::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("start as root, or with CAP_NET_BIND_SERVICE".into())
            }
            Error::Bind { address, source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                Some(format!("no interface has the address {address}; `ip address` lists those there are"))
            }
            _ => None,
        }
    }
}

/// The listening port, taken.
pub struct Listener {
    settings: Settings,
    socket: Arc<UdpSocket>,
}

/// Takes the port. Must be called within a tokio runtime.
pub fn bind(settings: Settings) -> Result<Listener, Error> {
    let Settings { address, port, .. } = settings;
    let socket = udp(address, port).map_err(|source| Error::Bind { address, port, source })?;
    Ok(Listener { settings, socket: Arc::new(socket) })
}

fn udp(address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    datagram::set_receive_buffer(socket.as_fd(), RECEIVE_BUFFER_BYTES)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
    UdpSocket::from_std(socket.into())
}

impl Listener {
    /// The address it listens on (the port too when 0 was asked for).
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` resolves; transfers under way end with it.
    pub async fn serve(
        self,
        library: Arc<dyn Library>,
        clock: Arc<dyn Clock>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let port = self.settings.port;
        let socket = self.socket.clone();
        let mut service = Service::new(self, library, clock);
        let mut buffer = [0; PACKET_BYTES_MAX];
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                Some(ended) = service.tasks.join_next() => service.ended(ended.ok()),
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((len, SocketAddr::V4(peer))) => service.packet(&buffer[..len], peer).await,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(source) => return Err(Error::Receive { port, source }),
                },
            }
        }
    }
}

/// A transfer under way, as the listener knows it.
struct Transfer {
    serial: u64,
    proven: Arc<AtomicBool>,
    abort: AbortHandle,
    /// With [`TransferPorts::Single`]: where its packets go.
    inbox: Option<mpsc::Sender<Vec<u8>>>,
}

struct Service {
    settings: Settings,
    socket: Arc<UdpSocket>,
    files: Arc<dyn Library>,
    clock: Arc<dyn Clock>,
    transfers: HashMap<SocketAddrV4, Transfer>,
    of_client: HashMap<Ipv4Addr, usize>,
    /// In order of arrival; entries of transfers that ended or were proven are passed over.
    unproven: VecDeque<(SocketAddrV4, u64)>,
    tasks: JoinSet<(SocketAddrV4, u64)>,
    serial: u64,
}

impl Service {
    fn new(listener: Listener, library: Arc<dyn Library>, clock: Arc<dyn Clock>) -> Service {
        Service {
            settings: listener.settings,
            socket: listener.socket,
            files: library,
            clock,
            transfers: HashMap::new(),
            of_client: HashMap::new(),
            unproven: VecDeque::new(),
            tasks: JoinSet::new(),
            serial: 0,
        }
    }

    async fn packet(&mut self, bytes: &[u8], peer: SocketAddrV4) {
        match Packet::parse(bytes) {
            Ok(Packet::Read(request)) => self.request(request, peer).await,
            Ok(Packet::Write) => self.refuse(peer, ErrorCode::AccessViolation, "this server is read-only").await,
            Ok(Packet::Ack(_) | Packet::Error { .. }) => {
                // A full inbox drops the packet, as a network would.
                let inbox = self.transfers.get(&peer).and_then(|transfer| transfer.inbox.as_ref());
                let _ = inbox.map(|inbox| inbox.try_send(bytes.to_vec()));
            }
            Err(error) => {
                tracing::debug!(%peer, "tftp: packet refused: {error}");
                self.refuse(peer, ErrorCode::IllegalOperation, "not a request that is understood").await;
            }
        }
    }

    async fn request(&mut self, request: ReadRequest, peer: SocketAddrV4) {
        if self.transfers.get(&peer).is_some_and(|transfer| !transfer.proven.load(Relaxed)) {
            return; // the client repeats itself; the transfer repeats its answer by itself
        }
        self.forget(peer); // a client that uses its port again has abandoned what it asked for before
        let Some(content) = self.files.content(&request.name, *peer.ip()) else {
            tracing::info!(%peer, file = %request.name.escape_debug(), "tftp: no such file");
            return self.refuse(peer, ErrorCode::FileNotFound, "no such file").await;
        };
        if !self.make_room(peer) {
            return; // silence: the client asks again
        }
        if let Err(error) = self.start(request, content, peer) {
            tracing::warn!(%peer, "tftp: no socket for the transfer: {error}");
        }
    }

    /// Whether there is a place for one more transfer; in total, a transfer whose client never answered yields its own.
    fn make_room(&mut self, peer: SocketAddrV4) -> bool {
        if self.of_client.get(peer.ip()).is_some_and(|count| *count >= self.settings.client_transfers_max) {
            return false;
        }
        while self.transfers.len() >= self.settings.transfers_max {
            let Some((oldest, serial)) = self.unproven.pop_front() else { return false };
            let transfer = self.transfers.get(&oldest);
            if transfer.is_some_and(|t| t.serial == serial && !t.proven.load(Relaxed)) {
                self.forget(oldest);
            }
        }
        true
    }

    fn start(&mut self, request: ReadRequest, content: Content, peer: SocketAddrV4) -> io::Result<()> {
        let (wire, inbox) = self.wire(peer)?;
        let proven = Arc::new(AtomicBool::new(false));
        self.serial += 1;
        let (serial, clock, flag) = (self.serial, self.clock.clone(), proven.clone());
        let (library, block_bytes_max) = (self.files.clone(), self.settings.block_bytes_max);
        let abort = self.tasks.spawn(async move {
            let started = clock.now();
            let (session, first) = Session::open(started, &request, content, block_bytes_max);
            let mut run = Run { wire, clock, session, flag, segmented: true, packets: Vec::new() };
            let outcome = run.drive(first).await;
            run.log(peer, &request.name, &outcome);
            let ended = run.ended(started, outcome);
            counter!("remint_tftp_transfers_total", "outcome" => ended.word()).increment(1);
            counter!("remint_tftp_acknowledged_bytes_total").increment(run.session.bytes_acknowledged());
            library.ended(&request.name, *peer.ip(), ended);
            (peer, serial)
        });
        self.transfers.insert(peer, Transfer { serial, proven, abort, inbox });
        *self.of_client.entry(*peer.ip()).or_default() += 1;
        self.unproven.push_back((peer, serial));
        if self.unproven.len() > 2 * self.settings.transfers_max {
            let transfers = &self.transfers;
            self.unproven.retain(|(peer, serial)| {
                transfers.get(peer).is_some_and(|t| t.serial == *serial && !t.proven.load(Relaxed))
            });
        }
        Ok(())
    }

    fn wire(&self, peer: SocketAddrV4) -> io::Result<(Wire, Option<mpsc::Sender<Vec<u8>>>)> {
        match self.settings.transfer_ports {
            TransferPorts::Single => {
                let (sender, inbox) = mpsc::channel(INBOX_PACKETS);
                Ok((Wire::Shared { socket: self.socket.clone(), peer, inbox }, Some(sender)))
            }
            TransferPorts::Many => {
                let socket = std::net::UdpSocket::bind((self.settings.address, 0))?;
                socket.connect(peer)?;
                socket.set_nonblocking(true)?;
                Ok((Wire::Own(UdpSocket::from_std(socket)?), None))
            }
        }
    }

    fn ended(&mut self, ended: Option<(SocketAddrV4, u64)>) {
        if let Some((peer, serial)) = ended
            && self.transfers.get(&peer).is_some_and(|transfer| transfer.serial == serial)
        {
            self.forget(peer);
        }
    }

    fn forget(&mut self, peer: SocketAddrV4) {
        let Some(transfer) = self.transfers.remove(&peer) else { return };
        transfer.abort.abort();
        if let Some(count) = self.of_client.get_mut(peer.ip()) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(peer.ip());
            }
        }
    }

    async fn refuse(&self, peer: SocketAddrV4, code: ErrorCode, message: &str) {
        if let Err(error) = self.socket.send_to(&emit_error(code, message), peer).await {
            tracing::debug!(%peer, "tftp: the refusal could not be sent: {error}");
        }
    }
}

/// Where the packets of one transfer come and go.
enum Wire {
    /// A connected socket of its own: the kernel drops strangers' packets.
    Own(UdpSocket),
    Shared {
        socket: Arc<UdpSocket>,
        peer: SocketAddrV4,
        inbox: mpsc::Receiver<Vec<u8>>,
    },
}

impl Wire {
    async fn receive(&mut self) -> io::Result<Result<Packet, crate::pxe::tftp::packet::ParseError>> {
        match self {
            Wire::Own(socket) => {
                let mut buffer = [0; PACKET_BYTES_MAX];
                let len = socket.recv(&mut buffer).await?;
                Ok(Packet::parse(&buffer[..len]))
            }
            Wire::Shared { inbox, .. } => {
                let bytes = inbox.recv().await.ok_or(io::ErrorKind::ConnectionAborted)?;
                Ok(Packet::parse(&bytes))
            }
        }
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Wire::Own(socket) => socket.send(bytes).await.map(|_| ()),
            Wire::Shared { socket, peer, .. } => socket.send_to(bytes, peer).await.map(|_| ()),
        }
    }
}

/// How a transfer ended.
enum Outcome {
    Complete,
    /// The client sent an error packet; firmware that only asked for the size does that on purpose.
    Stopped {
        code: u16,
        message: String,
    },
    Silent,
    Failed(io::Error),
}

/// One transfer: the state machine with its socket and its clock.
struct Run {
    wire: Wire,
    clock: Arc<dyn Clock>,
    session: Session,
    /// Set when the client has answered once.
    flag: Arc<AtomicBool>,
    /// Whether windows may leave in one call.
    segmented: bool,
    packets: Vec<u8>,
}

impl Run {
    async fn drive(&mut self, first: Step) -> Outcome {
        let mut step = first;
        loop {
            let sent = match step {
                Step::Done => return Outcome::Complete,
                Step::GiveUp => return Outcome::Silent,
                Step::Wait => Ok(()),
                Step::SendOptions => self.wire.send(&self.session.emit_options()).await,
                Step::SendBlocks(blocks) => {
                    let mut packets = std::mem::take(&mut self.packets);
                    self.session.emit_blocks(blocks, &mut packets);
                    let sent = self.send_packets(&packets).await;
                    self.packets = packets;
                    sent
                }
            };
            if let Err(error) = sent {
                return Outcome::Failed(error);
            }
            step = match self.next().await {
                Ok(step) => step,
                Err(outcome) => return outcome,
            };
        }
    }

    /// Waits for the client or for the deadline.
    async fn next(&mut self) -> Result<Step, Outcome> {
        let wait = Duration::from_millis(self.session.deadline().since(self.clock.now()));
        match tokio::time::timeout(wait, self.wire.receive()).await {
            Err(_) => Ok(self.session.on_silence(self.clock.now())),
            Ok(Err(error)) => Err(Outcome::Failed(error)),
            Ok(Ok(Ok(Packet::Ack(block)))) => {
                let step = self.session.on_ack(self.clock.now(), block);
                self.flag.store(self.session.is_proven(), Relaxed);
                Ok(step)
            }
            Ok(Ok(Ok(Packet::Error { code, message }))) => Err(Outcome::Stopped { code, message }),
            Ok(Ok(_)) => Ok(Step::Wait),
        }
    }

    /// A window in as few calls as the kernel allows.
    async fn send_packets(&mut self, packets: &[u8]) -> io::Result<()> {
        let packet_bytes = self.session.packet_bytes();
        if let Wire::Own(socket) = &self.wire
            && self.segmented
            && packets.len() > usize::from(packet_bytes)
        {
            let at_once = (SEGMENTED_BYTES_MAX / usize::from(packet_bytes)).clamp(1, SEGMENTS_MAX);
            for part in packets.chunks(at_once * usize::from(packet_bytes)) {
                let send = || datagram::send_segments(socket.as_fd(), part, packet_bytes);
                if socket.async_io(tokio::io::Interest::WRITABLE, send).await?.is_none() {
                    self.segmented = false;
                    break;
                }
            }
            if self.segmented {
                return Ok(());
            }
        }
        for packet in packets.chunks(usize::from(packet_bytes)) {
            self.wire.send(packet).await?;
        }
        Ok(())
    }

    fn ended(&self, started: Timestamp, outcome: Outcome) -> Ended {
        let (done, bytes, repeats) = (self.session.bytes_acknowledged(), self.session.bytes(), self.session.repeats());
        match outcome {
            Outcome::Complete => Ended::Complete { bytes, milliseconds: self.clock.now().since(started), repeats },
            Outcome::Stopped { code, message } if message.is_empty() => {
                Ended::Stopped { done, bytes, message: format!("TFTP error {code}") }
            }
            Outcome::Stopped { message, .. } => Ended::Stopped { done, bytes, message },
            Outcome::Silent if !self.session.is_proven() => Ended::Unanswered,
            Outcome::Silent | Outcome::Failed(_) => Ended::Silent { done, bytes },
        }
    }

    fn log(&self, peer: SocketAddrV4, name: &str, outcome: &Outcome) {
        let (done, size, retries) = (self.session.bytes_acknowledged(), self.session.bytes(), self.session.repeats());
        let file = name.escape_debug();
        match outcome {
            Outcome::Complete => tracing::info!(%peer, %file, bytes = size, retries, "tftp: sent"),
            Outcome::Stopped { code, message } => {
                tracing::info!(%peer, %file, done, size, code, "tftp: the client stopped: {}", message.escape_debug());
            }
            Outcome::Silent if !self.session.is_proven() => {
                tracing::debug!(%peer, %file, "tftp: the client never answered");
            }
            Outcome::Silent => tracing::warn!(%peer, %file, done, size, retries, "tftp: the client went silent"),
            Outcome::Failed(error) => tracing::debug!(%peer, %file, done, size, "tftp: {error}"),
        }
    }
}
