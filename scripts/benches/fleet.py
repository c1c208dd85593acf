"""Ten thousand agents that enrol and report through the real interface, against one appliance on two cores.

Each agent has a key, a certificate and a TLS connection of its own for each request, as real agents have that speak once a
minute. The agents run on the same cores as the appliance: what is measured includes being in each other's way.
"""
import contextlib, http.client, json, multiprocessing, os, random, signal, ssl, statistics, subprocess, sys, tempfile, time
from pathlib import Path

from measure import fresh_folder, release_binary

PORT, HTTP_PORT = 18443, 18080
ADDRESS = "127.0.0.1"


def add_arguments(parser):
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="how long the schedule's rate is held")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "remint-bench-fleet")


def run(arguments):
    if os.geteuid() != 0:
        sys.exit("skipped: the appliance must bind the ports of a site; run it as root")
    folder = fresh_folder(arguments.data)
    remint = release_binary()
    site, token = make_site(folder, remint)
    with served(folder, remint, site) as pid:
        measure_all(arguments, folder, site, token, pid)


def make_site(folder, remint):
    """A site that lets every machine of this host in, and the token of an administrator."""
    site = folder / "site"
    subprocess.run([remint, "init", "--data", site], check=True, stdout=subprocess.DEVNULL)
    (site / "remint.toml").write_text(
        f'[network]\ninterface = "lo"\naddress = "{ADDRESS}"\nhttp_port = {HTTP_PORT}\nhttps_port = {PORT}\ntftp_port = 18069\n'
        '[dhcp]\nmode = "off"\n[[enrolment.rule]]\nname = "bench"\nsubnet = "127.0.0.0/8"\n')
    made = subprocess.check_output([remint, "token", "create", "bench", "--role", "administrator", "--json", "--data", site])
    return site, json.loads(made)["token"]


@contextlib.contextmanager
def served(folder, remint, site):
    """Runs the appliance on two cores; gives its process."""
    log = open(folder / "serve.log", "w")
    appliance = subprocess.Popen(["taskset", "-c", "0,1", str(remint), "serve", "--data", str(site)], stdout=log, stderr=log)
    try:
        wait_until_ready(folder / "serve.log", appliance)
        yield appliance.pid
    finally:
        appliance.send_signal(signal.SIGTERM)
        appliance.wait()


def wait_until_ready(log, appliance):
    for _ in range(600):
        if "Remint serves" in log.read_text():
            return
        if appliance.poll() is not None:
            sys.exit(f"the appliance ended:\n{log.read_text()}")
        time.sleep(0.1)
    sys.exit("the appliance is not ready")


def measure_all(arguments, folder, site, token, pid):
    agents, workers = arguments.agents, arguments.workers
    print(f"{agents} agents, {workers} workers, one appliance on cores 0 and 1")
    phase("enrol and first report", pool(enrol, agents, workers, folder, site), pid)
    rate = agents / 60 + agents / 3600
    print(f"\nthe schedule of {agents} agents: a question for a run each minute, a report each hour: {rate:.0f} requests a second")
    phase("at the schedule's rate", pool(scheduled, agents, workers, folder, site, arguments.seconds, rate / workers), pid)
    phase("all report as fast as they can", pool(report_again, agents, workers, folder, site), pid)
    ask_views(site, token)
    print(f"\nmemory of the appliance at its peak: {peak_mib(pid):.0f} MiB")
    machines = query(site, token, "SELECT count(*) FROM machines WHERE os = 'debian'")[0][0]
    print(f"reports taken: {machines} of {agents}")
    if machines != agents:
        sys.exit("some reports were lost")


def pool(work, agents, workers, folder, site, *more):
    """Runs `work` in processes; all latencies in seconds and the failures."""
    began = time.monotonic()
    shares = [(range(worker, agents, workers), folder, site, *more) for worker in range(workers)]
    with multiprocessing.Pool(workers) as processes:
        results = processes.starmap(work, shares)
    latencies = sorted(latency for result in results for latency in result[0])
    failures = [failure for result in results for failure in result[1]]
    return latencies, failures, time.monotonic() - began


def phase(what, result, pid):
    latencies, failures, seconds = result
    at = lambda share: latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000
    print(f"  {what:<32} {len(latencies):>7} requests in {seconds:6.1f} s = {len(latencies) / seconds:6.0f}/s   "
          f"p50 {at(.5):6.1f} ms  p99 {at(.99):7.1f} ms  max {latencies[-1] * 1000:7.1f} ms   peak {peak_mib(pid):.0f} MiB", flush=True)
    if failures:
        sys.exit(f"{len(failures)} requests failed, the first: {failures[0]}")


def peak_mib(pid):
    # taskset becomes the appliance.
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


class Agent:
    """One simulated agent. Its files are its certificate and key."""

    def __init__(self, number, folder, site):
        self.number, self.site = number, site
        self.pem = folder / "agents" / f"{number}.pem"

    def context(self):
        context = ssl.create_default_context(cafile=str(self.site / "keys/authority.pem"))
        if self.pem.exists():
            context.load_cert_chain(self.pem)
        return context

    def call(self, path, message):
        began = time.monotonic()
        connection = http.client.HTTPSConnection(ADDRESS, PORT, context=self.context(), timeout=60)
        try:
            connection.request("POST", path, json.dumps(message), {"content-type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {body[:200]}")
        return json.loads(body), time.monotonic() - began

    def hardware(self):
        n = self.number
        return {
            "architecture": "x86_64",
            "system": {"manufacturer": "LabCo", "product": f"LabBox {n % 7}", "serial": f"BENCH{n:06}",
                       "uuid": f"11111111-2222-3333-4444-{n:012x}"},
            "board": {"serial": f"BOARD{n:06}"},
            "firmware": {"kind": "uefi" if n % 3 else "bios"},
            "processor": {"model": "Bench", "sockets": 1, "cores": 4, "threads": 8},
            "memory": {"total_bytes": (8 + n % 4 * 8) << 30},
            "disks": [{"name": "nvme0n1", "bytes": 512 << 30, "serial": f"DISK{n:06}", "model": "Bench SSD"}],
            "adapters": [{"name": "eth0", "mac": f"02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}", "bus": "pci", "link": True}],
            "pci": [{"address": f"0000:00:{d:02x}.0", "class": "020000", "vendor": "8086", "device": f"{d:04x}"} for d in range(20)],
        }

    def software(self, round):
        generator = random.Random(self.number % 50)
        packages = [{"manager": "deb", "name": f"package-{p}", "architecture": "amd64", "version": f"1.{generator.randrange(3)}-1"} for p in range(150)]
        packages[round % 150]["version"] = f"2.{round}"
        return {"os": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12", "kernel": "6.1.0", "hostname": f"bench-{self.number}"},
                "packages": packages}

    def report(self, round, hardware=False):
        message = {"at": int(time.time() * 1000), "software": self.software(round)}
        if hardware:
            message["hardware"] = self.hardware()
        return self.call("/link/v1/inventory", message)[1]


def each(numbers, folder, site, work):
    latencies, failures = [], []
    for number in numbers:
        try:
            latencies += work(Agent(number, folder, site))
        except Exception as failure:
            failures.append(f"agent {number}: {failure!r}")
    return latencies, failures


def enrol(numbers, folder, site):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    (folder / "agents").mkdir(exist_ok=True)

    def work(agent):
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        hardware = agent.hardware()
        identity = {"uuid": hardware["system"]["uuid"], "system_serial": hardware["system"]["serial"],
                    "board_serial": hardware["board"]["serial"], "disk_serials": [hardware["disks"][0]["serial"]],
                    "macs": [hardware["adapters"][0]["mac"]], "manufacturer": "LabCo", "model": hardware["system"]["product"]}
        message = {"stage": "installed-system", "identity": identity, "arrived_by": None, "hardware": hardware, "agent": "bench",
                   "request_pem": request.public_bytes(serialization.Encoding.PEM).decode()}
        reply, latency = agent.call("/link/v1/check-in", message)
        if reply["verdict"] != "approved":
            raise RuntimeError(f"not let in: {reply}")
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        agent.pem.write_bytes(pem + reply["certificate_pem"].encode())
        return [latency, agent.report(0, hardware=True)]

    return each(numbers, folder, site, work)


def scheduled(numbers, folder, site, seconds, rate):
    """Requests at their times; one that is late because the one before took long counts from when it was due."""
    latencies, failures, began, number = [], [], time.monotonic(), 0
    generator = random.Random(numbers.start)
    numbers = list(numbers)
    while (due := began + number / rate) < began + seconds:
        time.sleep(max(0, due - time.monotonic()))
        agent = Agent(generator.choice(numbers), folder, site)
        try:
            if number % 61 == 0:
                agent.report(1 + number)
            else:
                agent.call("/link/v1/run", {"place": "installed-system"})
            latencies.append(time.monotonic() - due)
        except Exception as failure:
            failures.append(f"agent {agent.number}: {failure!r}")
        number += 1
    return latencies, failures


def report_again(numbers, folder, site):
    return each(numbers, folder, site, lambda agent: [agent.report(100_000 + agent.number % 40)])


QUERIES = [
    "SELECT name, model, memory_bytes FROM machines WHERE firmware = 'bios' ORDER BY name",
    "SELECT model, count(*) FROM machines GROUP BY model",
    "SELECT machine, version FROM packages WHERE package = 'package-7'",
    "SELECT version, count(*) FROM packages WHERE package = 'package-9' GROUP BY version",
    "SELECT machine, disk FROM disks WHERE bytes > 500000000000",
    "SELECT count(*) FROM packages",
    "SELECT machine, name, after FROM changes WHERE subject = 'package' ORDER BY at DESC LIMIT 100",
]


def ask_views(site, token):
    print("\n  the views")
    for sql in QUERIES:
        times = []
        for _ in range(3):
            began = time.monotonic()
            rows = query(site, token, sql)
            times.append(time.monotonic() - began)
        print(f"  {statistics.median(times) * 1000:8.0f} ms  {len(rows):>6} rows  {sql}")


def query(site, token, sql):
    context = ssl.create_default_context(cafile=str(site / "keys/authority.pem"))
    connection = http.client.HTTPSConnection(ADDRESS, PORT, context=context, timeout=60)
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    connection.request("POST", "/api/v1/inventory/query", json.dumps({"sql": sql}), headers)
    answer = json.loads(connection.getresponse().read())
    if "rows" not in answer:
        sys.exit(f"{sql}: {answer}")
    return answer["rows"]
