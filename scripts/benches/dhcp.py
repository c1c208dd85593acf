"""DHCP with persisted leases beside Kea: perfdhcp over a veth pair between network namespaces.

perfdhcp acts as a relay with four million clients. The figures to trust: whole exchanges (DISCOVER, OFFER, REQUEST, ACK) a CPU
second of the server, and the highest rate with less than 0.1 % lost. Where packets were lost is said as well: in the receive
buffer of the server, in that of perfdhcp, or elsewhere. Needs root, kea-dhcp4-server and kea-admin (perfdhcp).
"""
import json, os, re, shutil, subprocess, sys
from pathlib import Path

import measure
from network import CLIENT, SERVER, Service, Wire, remint_site

RATES = (1000, 2000, 3000, 4000, 5000, 6000, 8000)


def add_arguments(parser):
    parser.add_argument("--data", default="target/bench")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES)


def kea_configuration(folder):
    return {"Dhcp4": {
        "interfaces-config": {"interfaces": ["srv0"], "dhcp-socket-type": "udp"},
        "lease-database": {"type": "memfile", "persist": True, "name": str(folder / "kea.leases"), "lfc-interval": 0},
        "multi-threading": {"enable-multi-threading": True, "thread-pool-size": 2, "packet-queue-size": 64},
        "valid-lifetime": 3600,
        "subnet4": [{"id": 1, "subnet": "10.0.0.0/8", "pools": [{"pool": "10.16.0.0-10.200.255.254"}]}],
        "loggers": [{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": "stderr"}]}],
    }}


def perfdhcp(wire, rate, seconds):
    """Exchanges that were completed, and the share that was lost of either half."""
    command = wire.at_client("perfdhcp", "-4", "-l", "cli0", "-r", rate, "-R", 4000000, "-p", seconds, "-W", 1000000, "-d", 1, SERVER)
    text = subprocess.run(command, capture_output=True, text=True).stdout
    sent = [int(number) for number in re.findall(r"sent packets: (\d+)", text)]
    received = [int(number) for number in re.findall(r"received packets: (\d+)", text)]
    if len(sent) < 2 or len(received) < 2:
        sys.exit(f"perfdhcp said nothing that is understood:\n{text}")
    lost = max(1 - received[half] / max(sent[half], 1) for half in (0, 1))
    return received[1], lost


def overflows(at):
    """Datagrams that found the receive buffer of their socket full, in the namespace of `at`."""
    head, values = (line.split() for line in subprocess.check_output(at("cat", "/proc/net/snmp"), text=True).splitlines() if line.startswith("Udp:"))
    return int(values[head.index("RcvbufErrors")])


def climb(server, service, wire, arguments):
    """Runs at each rate; gives exchanges a CPU second over all of them, and the highest rate with less than 0.1 % lost."""
    exchanges, seconds, highest = 0, 0.0, 0
    for rate in arguments.rates:
        cpu, before = service.cpu(), [overflows(at) for at in (wire.at_server, wire.at_client)]
        done, lost = perfdhcp(wire, rate, arguments.seconds)
        cpu = max(service.cpu() - cpu, 0.01)
        dropped = [overflows(at) - past for at, past in zip((wire.at_server, wire.at_client), before)]
        print(f"  {server:<8} {rate:6}/s asked {done / arguments.seconds:8.0f}/s done {lost * 100:7.3f} % lost {cpu:7.2f} server CPU s "
              f"{done / cpu:8.0f} exchanges a CPU s; receive buffers overran {dropped[0]} times at the server, {dropped[1]} at the client", flush=True)
        exchanges, seconds = exchanges + done, seconds + cpu
        if lost < 0.001:
            highest = rate
        elif lost > 0.05:
            break
    return exchanges / max(seconds, 0.01), highest


def run(arguments):
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    measure.install_peers()
    remint, work = measure.release_binary(), measure.fresh_folder(Path(arguments.data) / "dhcp").absolute()
    remint_site(remint, work / "site", '[network]\ninterface = "srv0"\n[dhcp]\nmode = "server"\nrange = ["10.16.0.0", "10.200.255.254"]\n')
    (work / "kea.json").write_text(json.dumps(kea_configuration(work)))
    os.environ["RUST_LOG"] = "error"
    os.environ["KEA_PIDFILE_DIR"] = os.environ["KEA_LOCKFILE_DIR"] = str(work)
    if not shutil.which("perfdhcp"):
        sys.exit("skipped: perfdhcp is not installed (Debian's kea-admin)")
    servers = {"remint": [remint, "serve", "--data", work / "site"]}
    if shutil.which("kea-dhcp4"):
        servers["kea"] = ["kea-dhcp4", "-c", work / "kea.json"]
    else:
        print("skipped: kea-dhcp4 is not installed")
    figures = {}
    for server, command in servers.items():
        with Wire() as wire, Service(wire.at_server(*command), work / f"{server}.log", 67, wire.server) as service:
            figures[server] = climb(server, service, wire, arguments)
    print("\nhighest rate with less than 0.1 % lost: " + ", ".join(f"{server} {highest}/s" for server, (_, highest) in figures.items()))
    if "kea" in figures:
        print(f"remint's exchanges a CPU second as a multiple of kea's: {figures['remint'][0] / max(figures['kea'][0], 0.01):.2f}")
    shutil.rmtree(work)
