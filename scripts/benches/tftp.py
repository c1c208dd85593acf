"""TFTP beside atftpd: one client, and two hundred at once, over a veth pair between network namespaces.

Blocks of 1428 bytes in windows of 16. The client is the same for both servers, is written here, and checks that what it got is
whole. The figure to trust is megabytes per CPU second of the server. Needs root and atftpd.
"""
import hashlib, multiprocessing, os, select, shutil, socket, struct, sys, time
from pathlib import Path

import measure
from network import CLIENT, SERVER, Service, Wire, ip, remint_site

BLOCK, WINDOW = 1428, 16


def add_arguments(parser):
    parser.add_argument("--data", default="target/bench")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=64, help="size of the file that one client loads")
    parser.add_argument("--rounds", type=int, default=3)


class Transfer:
    """One client's transfer: blocks in, one acknowledgement for each window, a repeated one when nothing comes."""

    def __init__(self, address, name):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((address, 0))
        self.socket.setblocking(False)
        request = b"\0\1" + name + b"\0octet\0blksize\0%d\0windowsize\0%d\0" % (BLOCK, WINDOW)
        self.peer, self.last, self.bytes, self.done = (SERVER, 69), request, 0, False
        self.expect, self.hash, self.heard = 0, hashlib.sha256(), time.monotonic()
        self.buffer = bytearray(2048)
        self.send()

    def send(self):
        self.socket.sendto(self.last, self.peer)

    def acknowledge(self, block):
        self.last = struct.pack(">HH", 4, block & 0xffff)
        self.send()

    def readable(self, now):
        gap = False
        while True:
            try:
                count, peer = self.socket.recvfrom_into(self.buffer)
            except BlockingIOError:
                break
            self.heard = now
            kind, block = struct.unpack_from(">HH", self.buffer)
            if kind == 6:
                self.peer = peer
                if self.expect == 0:
                    self.acknowledge(0)
                    self.expect = 1
            elif kind == 5:
                raise SystemExit(f"the server refused: {bytes(self.buffer[4:count])}")
            elif kind == 3 and block == self.expect & 0xffff:
                self.hash.update(memoryview(self.buffer)[4:count])
                self.bytes += count - 4
                self.done = count < BLOCK + 4
                if self.done or self.expect % WINDOW == 0:
                    self.acknowledge(self.expect)
                self.expect += 1
                gap = False
            elif kind == 3 and not gap and not self.done:
                gap = True
                self.acknowledge(self.expect - 1)
        return self.done

    def silent(self, now):
        if now - self.heard > 1:
            self.heard = now
            self.send()


def load(addresses, name, digest, results):
    """Loads `name` once for each address, all at once. Reports bytes, or what went wrong."""
    poll, transfers = select.epoll(), {}
    for address in addresses:
        transfer = Transfer(address, name)
        transfers[transfer.socket.fileno()] = transfer
        poll.register(transfer.socket, select.EPOLLIN)
    total, wrong, looked, limit = 0, 0, time.monotonic(), time.monotonic() + 300
    while transfers and time.monotonic() < limit:
        now = time.monotonic()
        for number, _ in poll.poll(0.2):
            transfer = transfers[number]
            if transfer.readable(now):
                poll.unregister(transfer.socket)
                total += transfer.bytes
                wrong += transfer.hash.digest() != digest
                transfers.pop(number).socket.close()
        # Not each time: where few wait for a wake-up, the client would be busier with its own list than with packets.
        if now - looked > 0.2:
            looked = now
            for transfer in transfers.values():
                transfer.silent(now)
    results.put((total, len(transfers), wrong))


def run_clients(space, addresses, name, digest):
    """In the client's namespace, on two processes. Gives bytes and wall seconds."""
    results, began = multiprocessing.Queue(), time.monotonic()
    def within(part):
        with open(f"/run/netns/{space}") as namespace:
            os.setns(namespace.fileno(), 0x40000000) if hasattr(os, "setns") else setns(namespace.fileno())
        load(part, name, digest, results)
    parts = [part for part in (addresses[::2], addresses[1::2]) if part]
    processes = [multiprocessing.Process(target=within, args=(part,)) for part in parts]
    for process in processes:
        process.start()
    total = unfinished = wrong = 0
    for _ in processes:
        bytes_of_part, left, bad = results.get(timeout=320)
        total, unfinished, wrong = total + bytes_of_part, unfinished + left, wrong + bad
    for process in processes:
        process.join()
    return total, time.monotonic() - began, unfinished, wrong


def setns(descriptor):
    """Python before 3.12 has no os.setns."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


class Figures:
    def __init__(self):
        self.rows = {}

    def measure(self, server, job, service, wire, addresses, name, digest, rounds):
        cpu, bytes_all, wall, unfinished, wrong = service.cpu(), 0, 0.0, 0, 0
        for _ in range(rounds):
            total, seconds, left, bad = run_clients(wire.client, addresses, name, digest)
            bytes_all, wall, unfinished, wrong = bytes_all + total, wall + seconds, unfinished + left, wrong + bad
        cpu = max(service.cpu() - cpu, 0.01)
        megabytes = bytes_all / 1e6
        self.rows[job, server] = (megabytes / cpu, megabytes / wall)
        print(f"  {job:<12} {server:<8} {megabytes / wall:8.0f} MB/s {cpu:7.2f} server CPU s {megabytes / cpu:8.0f} MB a CPU s"
              f"  unfinished {unfinished}, wrong {wrong}", flush=True)

    def ratios(self):
        print("\nremint's rate as a multiple of atftpd's:")
        for job in dict.fromkeys(job for job, _ in self.rows):
            if (job, "atftpd") in self.rows:
                (own_cpu, own), (peer_cpu, peer) = self.rows[job, "remint"], self.rows[job, "atftpd"]
                print(f"  {job:<12} a server CPU second {own_cpu / peer_cpu:5.2f}   in all {own / peer:5.2f}")


def run(arguments):
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    measure.install_peers()
    remint, work = measure.release_binary(), measure.fresh_folder(Path(arguments.data) / "tftp").absolute()
    large, small = os.urandom(arguments.megabytes << 20), os.urandom(4 << 20)
    (work / "files").mkdir()
    os.chmod(work / "files", 0o755)
    for name, content in (("large", large), ("small", small)):
        (work / "files" / name).write_bytes(content)
    remint_site(remint, work / "site", '[network]\ninterface = "srv0"\n[dhcp]\nmode = "off"\n', {"large": large, "small": small})
    digests = {b"large": hashlib.sha256(large).digest(), b"small": hashlib.sha256(small).digest()}
    figures = Figures()
    with Wire() as wire:
        # Each client has an address of its own, as real ones have.
        ip("-n", wire.client, "route", "add", "local", "10.9.0.0/16", "dev", "lo")
        many = [f"10.9.0.{number + 1}" for number in range(arguments.clients)]
        servers = {"remint": wire.at_server(remint, "serve", "--data", work / "site")}
        if shutil.which("atftpd"):
            servers["atftpd"] = wire.at_server("atftpd", "--daemon", "--no-fork", "--user", "root", "--group", "root", "--maxthread", "1000",
                                               "--bind-address", SERVER, "--port", "69", "--verbose=1", work / "files")
        else:
            print("skipped: atftpd is not installed")
        ip("-n", wire.server, "route", "add", "10.9.0.0/16", "via", CLIENT)
        for server, command in servers.items():
            os.environ["RUST_LOG"] = "warn"
            with Service(command, work / f"{server}.log", 69, wire.server) as service:
                figures.measure(server, "one client", service, wire, [CLIENT], b"large", digests[b"large"], arguments.rounds)
                figures.measure(server, f"{arguments.clients} at once", service, wire, many, b"small", digests[b"small"], arguments.rounds)
    figures.ratios()
    shutil.rmtree(work)
