"""What the benchmarks of network boot share: two namespaces with a wire between them, and a server in one of them."""
import os, signal, subprocess, time
from pathlib import Path

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Wire:
    """A veth pair between the namespaces of a server (10.0.0.1/8 on `srv0`) and of a client (10.0.0.2/8 on `cli0`)."""

    def __enter__(self):
        self.server, self.client = f"rb{os.getpid()}s", f"rb{os.getpid()}c"
        for space in (self.server, self.client):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        ip("-n", self.server, "link", "add", "srv0", "type", "veth", "peer", "name", "cli0", "netns", self.client)
        for space, name, address in ((self.server, "srv0", SERVER), (self.client, "cli0", CLIENT)):
            ip("-n", space, "addr", "add", f"{address}/8", "dev", name)
            ip("-n", space, "link", "set", name, "up")
        return self

    def __exit__(self, *_):
        for space in (self.server, self.client):
            subprocess.run(["ip", "netns", "del", space])

    def at_server(self, *command):
        return ["ip", "netns", "exec", self.server, *map(str, command)]

    def at_client(self, *command):
        return ["ip", "netns", "exec", self.client, *map(str, command)]


class Service:
    """A server while it runs; `ip netns exec` becomes the program, so its process is the server's."""

    def __init__(self, command, log, udp_port, space):
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        limit = time.monotonic() + 60
        while f":{udp_port} " not in subprocess.check_output(["ip", "netns", "exec", space, "ss", "-lnu"], text=True):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{command[4:6]} did not start: {Path(log).read_text()[-2000:]}")
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        """User and system seconds of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def remint_site(remint, folder, configuration, boot_files=None):
    """A fresh site with this remint.toml and these boot files."""
    subprocess.run([remint, "--data", folder, "init"], check=True, stdout=subprocess.DEVNULL)
    (folder / "remint.toml").write_text(configuration)
    for name, content in (boot_files or {}).items():
        (folder / "boot/current").mkdir(exist_ok=True)
        (folder / "boot/current" / name).write_bytes(content)
