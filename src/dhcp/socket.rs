//! The sockets of DHCP and the loop that reads them: no decision is made here.
//!
//! [`bind`] takes the ports, so that a port that is already taken is known before anything is served and before
//! privileges are dropped; [`Sockets::serve`] runs until it is told to stop. Requests that have arrived together are
//! answered together: their leases go to disk in one transaction, then their replies leave.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::net::UdpSocket;

use crate::db::Db;
use crate::dhcp::db;
use crate::dhcp::lease::Lease;
use crate::dhcp::packet::{PACKET_BYTES_MAX, Packet};
use crate::dhcp::proxy;
use crate::dhcp::reply::{BootAnswer, Destination, Interface, Reply, Role};
use crate::dhcp::request::{Request, Wish};
use crate::dhcp::scope::Scope;
use crate::dhcp::server::{Notice, OtherServer, Server};
use crate::stdx::datagram;
use crate::stdx::frame::{FrameSocket, udp_datagram};
use crate::stdx::hint::Hint;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::Clock;

/// Requests that are answered together at most: their leases share one write to disk.
const BATCH_MAX: usize = 256;
/// Receive buffer of the server port: a thousand requests that come in while a batch is written.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
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

/// Default: `Proxy`.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Beside the network's own server: boot parts only.
    #[default]
    Proxy,
    /// The only DHCP server of these subnets (more than one when relays ask).
    Server(Vec<Scope>),
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
    server: UdpSocket,
    boot_server: UdpSocket,
    frames: FrameSocket,
}

/// Takes the ports of one interface. Must be called within a tokio runtime.
pub fn bind(settings: Settings) -> Result<Sockets, Error> {
    let name = &settings.interface;
    let interface_index = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(|source| Error::Interface { interface: name.clone(), source })?;
    let open = |port| udp(name, port).map_err(|source| Error::Bind { interface: name.clone(), port, source });
    Ok(Sockets {
        interface: Interface { name: name.clone(), address: settings.address, prefix: settings.prefix },
        interface_index,
        server: open(settings.ports.server)?,
        boot_server: open(settings.ports.boot_server)?,
        frames: FrameSocket::open().map_err(Error::Frame)?,
        settings,
    })
}

/// Bound to the device, so that packets of interfaces never mix, and to all addresses, so that broadcasts arrive.
fn udp(interface: &str, port: u16) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
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
            Mode::Server(scopes) => Some(Server::new(scopes.clone(), db::load(&db)?)),
        };
        let mut service = Service { sockets: self, server, db, clock, boot, reported: HashSet::new() };
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                batch = receive(&service.sockets.server) => {
                    let port = service.sockets.settings.ports.server;
                    service.answer(batch.map_err(|source| Error::Receive { port, source })?).await;
                }
                batch = receive(&service.sockets.boot_server) => {
                    let port = service.sockets.settings.ports.boot_server;
                    service.answer_boot_server(batch.map_err(|source| Error::Receive { port, source })?).await;
                }
            }
        }
    }
}

type Datagram = (Vec<u8>, SocketAddrV4);

/// Waits for a datagram and takes those that have come in with it.
async fn receive(socket: &UdpSocket) -> io::Result<Vec<Datagram>> {
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        socket.readable().await?;
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            match socket.try_recv_from(&mut buffer) {
                Ok((len, SocketAddr::V4(from))) => batch.push((buffer[..len].to_vec(), from)),
                Ok(_) => {}
                // What a datagram of ours met earlier (a port that nobody listens on) comes back here.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if !batch.is_empty() {
            return Ok(batch);
        }
    }
}

struct Service {
    sockets: Sockets,
    /// Present in full mode.
    server: Option<Server>,
    db: Arc<Db>,
    clock: Arc<dyn Clock>,
    boot: Arc<BootAnswer>,
    /// Other servers that were reported already.
    reported: HashSet<(Ipv4Addr, MacAddr)>,
}

impl Service {
    /// Port 67: decides for each request, stores the leases together, then sends.
    async fn answer(&mut self, batch: Vec<Datagram>) {
        let (mut leases, mut replies) = (Vec::new(), Vec::new());
        for (bytes, from) in batch {
            let Some(request) = read(&bytes, from) else { continue };
            if let Wish::Select { server, address } = request.wish {
                self.boot.took(request.mac, server, address);
            }
            let interface = &self.sockets.interface;
            let (reply, notice) = match &mut self.server {
                Some(server) => {
                    let outcome = server.handle(self.clock.now(), interface, &request, &*self.boot);
                    leases.extend(outcome.store);
                    (outcome.reply, outcome.notice)
                }
                None => (proxy::handle(interface, &request, &*self.boot), None),
            };
            replies.extend(reply);
            if let Some(notice) = notice {
                self.report(notice);
            }
        }
        if self.store(leases).await {
            for reply in replies {
                self.send(&reply).await;
            }
        }
    }

    async fn answer_boot_server(&mut self, batch: Vec<Datagram>) {
        for (bytes, from) in batch {
            let Some(request) = read(&bytes, from) else { continue };
            let interface = &self.sockets.interface;
            if let Some(reply) = proxy::handle_boot_server(interface, &request, &*self.boot) {
                let bytes = reply.packet.emit(reply.bytes_max);
                let to = if reply.to == Destination::Broadcast { self.client(Ipv4Addr::BROADCAST) } else { from };
                let sent = self.transmit(&self.sockets.boot_server, &bytes, to).await;
                log_sent(Role::BootServer, &reply, to, sent);
            }
        }
    }

    /// Whether the leases are on disk. When they cannot be written the replies stay unsent: the clients ask again.
    async fn store(&self, leases: Vec<Lease>) -> bool {
        if leases.is_empty() {
            return true;
        }
        let db = self.db.clone();
        match tokio::task::spawn_blocking(move || db::save(&db, &leases)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                let hint = error.hint().unwrap_or_default();
                tracing::error!(%hint, "leases cannot be stored, so they are not given out: {}", crate::stdx::hint::chain(&error));
                false
            }
            Err(_) => false,
        }
    }

    async fn send(&self, reply: &Reply) {
        let bytes = reply.packet.emit(reply.bytes_max);
        let to = match reply.to {
            Destination::Relay(relay) => SocketAddrV4::new(relay, self.sockets.settings.ports.server),
            Destination::Client(client) => self.client(client),
            Destination::Broadcast => self.client(Ipv4Addr::BROADCAST),
            Destination::Frame { mac, address } => {
                let from = SocketAddrV4::new(self.sockets.interface.address, self.sockets.settings.ports.server);
                let frame = udp_datagram(from, self.client(address), &bytes);
                match self.sockets.frames.send(&frame, mac, self.sockets.interface_index) {
                    Ok(()) => return log_sent(Role::Server, reply, self.client(address), Ok(())),
                    Err(_) => self.client(Ipv4Addr::BROADCAST),
                }
            }
        };
        log_sent(Role::Server, reply, to, self.transmit(&self.sockets.server, &bytes, to).await);
    }

    async fn transmit(&self, socket: &UdpSocket, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
        let Sockets { interface, interface_index, .. } = &self.sockets;
        let send = || datagram::send_from(socket.as_fd(), bytes, to, interface.address, *interface_index);
        socket.async_io(tokio::io::Interest::WRITABLE, send).await.map(|_| ())
    }

    fn client(&self, address: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(address, self.sockets.settings.ports.client)
    }

    /// Logs a notice, once for each other server and machine.
    fn report(&mut self, notice: Notice) {
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
    let packet = Packet::parse(bytes).map_err(|error| tracing::debug!(%from, "packet ignored: {error}")).ok()?;
    Request::try_from(packet).map_err(|error| tracing::debug!(%from, "request ignored: {error}")).ok()
}

fn log_sent(role: Role, reply: &Reply, to: SocketAddrV4, sent: io::Result<()>) {
    let packet = &reply.packet;
    let file = String::from_utf8_lossy(&packet.file);
    let kind = packet.message_type();
    match sent {
        Ok(()) => tracing::debug!(?role, ?kind, %to, address = %packet.yiaddr, %file, "replied"),
        Err(error) => tracing::warn!(?role, ?kind, %to, "the reply could not be sent: {error}"),
    }
}
