"""What the benchmarks share: the run of a command with its CPU seconds, rows, ratios, the program to measure."""
import os, shutil, subprocess, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


class Row:
    def __init__(self, job, tool, cpu, wall, peak, note=""):
        self.job, self.tool, self.cpu, self.wall, self.peak, self.note = job, tool, cpu, wall, peak, note


class Table:
    """Rows as they are measured, then the ratios."""

    def __init__(self, own="remint"):
        self.own, self.rows = own, []

    def run(self, job, tool, command, note="", **options):
        """Measures one command and prints its row."""
        return self.add(Row(job, tool, *measure(command, **options), note))

    def add(self, row):
        self.rows.append(row)
        print(f"  {row.job:<18} {row.tool:<18} {row.cpu:7.1f} CPU s {row.wall:7.1f} s {row.peak:7.0f} MiB  {row.note}", flush=True)
        return row

    def note(self, text):
        print(f"  {'':<18} {text}", flush=True)

    def ratios(self):
        print(f"\n{self.own}'s CPU seconds as a share of each peer's:")
        for own in (row for row in self.rows if row.tool == self.own):
            peers = [row for row in self.rows if row.job == own.job and row.tool != self.own]
            shares = ", ".join(f"{row.tool} 1/{row.cpu / max(own.cpu, 0.01):.1f} (wall 1/{row.wall / max(own.wall, 0.01):.1f})" for row in peers)
            print(f"  {own.job:<18} {own.cpu:6.1f} s: {shares or 'no peer'}")


def measure(command, **options):
    """Runs a command; CPU seconds (user and system, children included), wall seconds, peak MiB of the largest process."""
    os.sync()
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, shell=isinstance(command, str), **options)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    if status:
        sys.exit(f"failed: {command}\n{errors.decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def size(path):
    """Bytes that a file or folder takes on the disk."""
    return int(subprocess.check_output(["du", "-s", "--block-size=1", path]).split()[0])


def release_binary(name="remint", *options):
    """The program to measure: REMINT where it is set, else built here."""
    if "REMINT" in os.environ:
        return os.environ["REMINT"]
    subprocess.run(["cargo", "build", "--release", "--bin", name, *options], cwd=TOP, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    return target / "release" / name


def install_peers():
    """The peers of scripts/packages.bench; what cannot be installed is skipped by the benchmark that wants it."""
    if subprocess.run([TOP / "scripts/setup", "bench"]).returncode:
        print("skipped: some peers could not be installed (scripts/packages.bench)")


def fresh_folder(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
