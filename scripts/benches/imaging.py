"""Images: ingest, restore and update of two related 5 GiB disks, beside casync, desync, borg, partclone and qemu-img.

The data is made once by scripts/bench-images and kept in --data. Needs root.
"""
import json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

from measure import TOP, Row, Table, fresh_folder, install_peers, measure, release_binary, size


def add_arguments(parser):
    parser.add_argument("--data", default="target/bench", help="where the images are kept")
    parser.add_argument("--small", action="store_true", help="2 GiB images, made in a few minutes")
    parser.add_argument("--keep", action="store_true", help="leave the stores that were made")
    parser.add_argument("--only", nargs="*", help="compare with these tools only")


def run(arguments):
    install_peers()
    data = Path(arguments.data).resolve()
    if not (data / "v2.img").exists():
        subprocess.run([TOP / "scripts/bench-images", data, *(["--small"] if arguments.small else [])], check=True)
    binary = release_binary()
    work = fresh_folder(data / "work")
    bench = Bench(data, work)
    for image in (bench.v1, bench.v2):
        # Everybody finds the images in memory, the first as well as the last.
        subprocess.run(["dd", f"if={image}", "of=/dev/null", "bs=4M", "status=none"], check=True)
        print(f"{image}: {image.stat().st_size >> 20} MiB, {size(image) >> 20} MiB allocated")
    bench.remint(binary)
    for tool, compare in (("casync", bench.casync), ("desync", bench.desync), ("borg", bench.borg), ("partclone.extfs", bench.partclone),
                          ("qemu-img", bench.qemu)):
        if arguments.only is not None and tool not in arguments.only:
            continue
        if shutil.which(tool):
            compare()
        else:
            print(f"  skipped: {tool} is not installed")
    bench.ratios()
    if not arguments.keep:
        shutil.rmtree(work)


class Bench(Table):
    def __init__(self, data, work):
        super().__init__()
        self.data, self.work = data, work
        self.v1, self.v2 = data / "v1.img", data / "v2.img"

    def same(self, a, b):
        subprocess.run(["cmp", a, b], check=True)

    def remint(self, binary):
        site = self.work / "site"
        tool = [binary, "--data", site]
        subprocess.run([*tool, "init"], check=True, stdout=subprocess.DEVNULL)
        store, out = site / "store", self.work / "remint.img"
        self.run("ingest", "remint", [*tool, "image", "import", self.v1, "--name", "bench"])
        before = size(store)
        row = self.run("ingest related", "remint", [*tool, "image", "import", self.v2, "--name", "bench"])
        row.note = f"store {before >> 20} MiB, grew by {(size(store) - before) >> 20} MiB"
        self.note(row.note)
        self.restore_beside_cp([*tool, "image", "apply", "bench@1", out], out)
        self.files_agree(self.v1, out)
        self.run("restore again", "remint", [*tool, "image", "apply", "bench@1", out], "nothing to do")
        self.receipt(tool, out, "the same version again", lambda receipt, whole: receipt["fetched_chunks"] == 0)
        self.damage(out)
        self.receipt(tool, out, "after damage to 1 %", lambda receipt, whole: receipt["fetched_bytes"] <= whole * 0.06)
        self.update("remint", [*tool, "image", "apply", "bench@2", out], out)
        self.files_agree(self.v2, out)
        out.unlink()
        self.interrupted(tool, out)

    def update(self, tool, command, out, note=""):
        """Makes `out`, which holds version 1 and is not in memory, as a disk that was just switched on, into version 2."""
        with open(out, "rb") as disk:
            os.fsync(disk.fileno())
            os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.run("update", tool, command, note)

    def apply(self, tool, out):
        return json.loads(subprocess.check_output([*tool, "--json", "image", "apply", "bench@1", out], stderr=subprocess.DEVNULL))

    def receipt(self, tool, out, what, holds):
        """Applies version 1 again and says what had to be fetched."""
        made = self.apply(tool, out)
        receipt, whole = made["receipt"], made["receipt"]["kept_bytes"]
        self.note(f"{what}: {receipt['fetched_chunks']} chunks, {receipt['fetched_bytes']} bytes fetched; limit: {made['limit']}")
        if not holds(receipt, whole):
            sys.exit(f"failed: {what}: {receipt}")

    def damage(self, out):
        """Overwrites 1 % of what is allocated, in places of 1 MiB drawn from a fixed seed."""
        chance, content = random.Random(7), []
        with open(out, "r+b", buffering=0) as disk:
            at, end = 0, out.stat().st_size
            while at < end:
                try:
                    start = os.lseek(disk.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at = os.lseek(disk.fileno(), start, os.SEEK_HOLE)
                content += range(start, at - (1 << 20), 1 << 20)
            for place in chance.sample(content, max(1, len(content) // 100)):
                disk.seek(place + chance.randrange(4096))
                disk.write(chance.randbytes((1 << 20) - 4096))

    def interrupted(self, tool, out):
        """Kills an apply at 10, 50 and 90 % and starts it again: what was read from the store twice."""
        whole, allocated = self.fetched(tool, out), size(out)
        for percent in (10, 50, 90):
            out.unlink(missing_ok=True)
            child = subprocess.Popen([*tool, "image", "apply", "bench@1", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while child.poll() is None and (not out.exists() or size(out) < allocated * percent / 100):
                time.sleep(0.01)
            child.send_signal(signal.SIGSTOP)
            # All that it read so far: the program, the packs' indexes and the manifest too, so this is an upper bound.
            read = int(Path(f"/proc/{child.pid}/io").read_text().split()[1])
            child.kill()
            child.wait()
            done = size(out)
            again = self.apply(tool, out)["receipt"]["wire_bytes"]
            twice = read + again - whole
            self.note(f"killed at {100 * done // allocated} %: at most {twice >> 20} MiB fetched twice, {100 * twice / whole:.2f} % of {whole >> 20} MiB")
            if twice > whole * 0.02:
                sys.exit("failed: more than 2 % was fetched twice")
        out.unlink()

    def fetched(self, tool, out):
        out.unlink(missing_ok=True)
        return self.apply(tool, out)["receipt"]["wire_bytes"]

    def files_agree(self, image, out):
        """Free blocks are not part of an image: used blocks are compared, and the file system is checked."""
        used = []
        for disk in (image, out):
            part, blocks = self.work / "part", self.work / f"blocks.{disk.stem}"
            text = subprocess.check_output(["sgdisk", "-i2", disk], text=True)
            first, last = (int(line.split()[2]) for line in text.splitlines() if line.startswith(("First sector", "Last sector")))
            subprocess.run(["dd", f"if={disk}", f"of={part}", "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse",
                            f"skip={first * 512}", f"count={(last - first + 1) * 512}", "status=none"], check=True)
            subprocess.run(["e2fsck", "-fn", part], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["e2image", "-ra", part, blocks], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            used.append(blocks)
        self.same(*used)
        for path in (*used, part):
            path.unlink()

    def restore_beside_cp(self, command, out):
        """Three times in turn, so that what else the machine does falls on both; the run of median wall time counts."""
        copy, runs = self.work / "cp.img", {"remint": [], "cp --sparse, sync": []}
        for _ in range(3):
            out.unlink(missing_ok=True)
            runs["remint"].append(measure(command))
            copy.unlink(missing_ok=True)
            runs["cp --sparse, sync"].append(measure(f"cp --sparse=always {self.v1} {copy} && sync {copy}"))
        copy.unlink()
        for tool, measured in runs.items():
            self.add(Row("restore", tool, *sorted(measured, key=lambda run: run[1])[1], "median of 3, in turn"))

    def casync(self):
        store, out = self.work / "casync", self.work / "casync.img"
        store.mkdir()
        make = lambda image: ["casync", "make", f"--store={store}/default.castr", f"{store}/{image.stem}.caibx", image]
        extract = lambda stem: ["casync", "extract", f"--store={store}/default.castr", f"{store}/{stem}.caibx", out]
        self.run("ingest", "casync", make(self.v1))
        before = size(store)
        self.run("ingest related", "casync", make(self.v2))
        self.note(f"store {before >> 20} MiB, grew by {(size(store) - before) >> 20} MiB")
        self.run("restore", "casync", extract("v1"))
        self.same(self.v1, out)
        # With the output itself as the seed, casync stops with "Stale file handle" once it has overwritten some of it.
        seed = [f"--seed={self.v1}", "--seed-output=no"]
        self.update("casync", [*extract("v2")[:2], *seed, *extract("v2")[2:]], out, "v1 as seed, apart")
        out.unlink()
        shutil.rmtree(store)

    def desync(self):
        store, out = self.work / "desync", self.work / "desync.img"
        (store / "s").mkdir(parents=True)
        make = lambda image: ["desync", "make", "-s", store / "s", store / f"{image.stem}.caibx", image]
        extract = lambda stem: ["desync", "extract", "-k", "-s", store / "s", store / f"{stem}.caibx", out]
        self.run("ingest", "desync", make(self.v1))
        before = size(store)
        self.run("ingest related", "desync", make(self.v2))
        self.note(f"store {before >> 20} MiB, grew by {(size(store) - before) >> 20} MiB")
        self.run("restore", "desync", extract("v1"))
        self.same(self.v1, out)
        self.update("desync", extract("v2"), out)
        self.same(self.v2, out)
        out.unlink()
        shutil.rmtree(store)

    def borg(self):
        repository = self.work / "borg"
        environment = dict(os.environ, BORG_BASE_DIR=str(self.work / "borg-home"), BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
                           BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
        subprocess.run(["borg", "init", "-e", "none", repository], check=True, env=environment)
        create = lambda name, image: ["borg", "create", "-C", "zstd,3", f"{repository}::{name}", image.name]
        self.run("ingest", "borg", create("v1", self.v1), env=environment, cwd=self.data)
        before = size(repository)
        self.run("ingest related", "borg", create("v2", self.v2), env=environment, cwd=self.data)
        self.note(f"store {before >> 20} MiB, grew by {(size(repository) - before) >> 20} MiB")
        out = self.work / "borg-out"
        out.mkdir()
        self.run("restore", "borg", ["borg", "extract", "--sparse", f"{repository}::v1"], env=environment, cwd=out)
        shutil.rmtree(out)
        shutil.rmtree(repository)

    def partclone(self):
        image, out = self.work / "partclone.zst", self.work / "partclone.ext4"
        self.run("ingest", "partclone, zstd -3", f"partclone.extfs -c -s {self.data}/v1.ext4 -L /dev/null -O - 2>/dev/null | zstd -3 -q -f -o {image}",
                 "the root partition only")
        subprocess.run(["truncate", f"--size={(self.data / 'v1.ext4').stat().st_size}", out], check=True)
        self.run("restore", "partclone, zstd", f"zstd -dc {image} | partclone.restore -C -L /dev/null -s - -O {out} 2>/dev/null", "the root partition only")
        image.unlink()
        out.unlink()

    def qemu(self):
        image, out = self.work / "qemu.qcow2", self.work / "qemu.img"
        self.run("ingest", "qemu-img qcow2 zstd", ["qemu-img", "convert", "-O", "qcow2", "-c", "-o", "compression_type=zstd", self.v1, image])
        self.run("restore", "qemu-img", ["qemu-img", "convert", "-O", "raw", image, out])
        image.unlink()
        out.unlink()
