"""WIM: capture, verify and apply of a Debian tree beside wimlib-imagex, with no compression, XPRESS and LZX.

What either captures is applied by the other, and all trees are compared with the original: contents, names, links, owners,
permissions, times, devices, extended attributes. Solid and split files are written and given back as well; and two files
of wimlib's that share nine tenths go into a store, which should grow by the difference, and come out again. Needs root. The
tree is --tree, or the root folder of scripts/bench-images under --data, or is made there with mmdebstrap.
"""
import hashlib, os, shutil, stat, subprocess, sys
from pathlib import Path

from measure import Row, Table, fresh_folder, install_peers, measure, release_binary

COMPRESSIONS = ("none", "xpress", "lzx")
PARTS = (*COMPRESSIONS, "solid", "split", "store")
PACKAGES = "linux-image-amd64,build-essential,python3,git,vim,emacs-nox,locales-all"


def add_arguments(parser):
    parser.add_argument("--data", default="target/bench", help="where the tree and the files are kept")
    parser.add_argument("--tree", help="another tree to capture")
    parser.add_argument("--rounds", type=int, default=3, help="verify and apply this often; the fastest counts")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="these parts only")


def run(arguments):
    install_peers()
    if not shutil.which("wimlib-imagex"):
        sys.exit("wimlib-imagex is not installed: there is nothing to compare with")
    data = Path(arguments.data).resolve()
    tree = Path(arguments.tree).resolve() if arguments.tree else debian_tree(data)
    binary = release_binary()
    bench = Bench(tree, fresh_folder(data / "wim-work"), binary, arguments.rounds)
    bench.describe()
    # Trees are applied in memory: ext4 without a journal searches long for inodes just after many were freed.
    bench.memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "wim-bench", bench.memory], check=True)
    try:
        for compression in (part for part in COMPRESSIONS if part in arguments.only):
            bench.compare(compression)
    finally:
        subprocess.run(["umount", bench.memory])
    for part in (bench.solid, bench.split, bench.store):
        if part.__name__ in arguments.only:
            part()
    bench.ratios()
    shutil.rmtree(bench.work)


def debian_tree(data):
    for tree in (data / "v1", data / "wim-tree"):
        if tree.exists():
            return tree
    data.mkdir(parents=True, exist_ok=True)
    partial = data / "wim-tree.partial"
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory", f"--include={PACKAGES}", "bookworm", partial], check=True)
    return partial.rename(data / "wim-tree")


class Bench:
    def __init__(self, tree, work, binary, rounds):
        self.tree, self.work, self.binary, self.rounds, self.table = tree, work, binary, rounds, Table()
        self.memory = work / "memory"
        self.original = snapshot(tree)

    def describe(self):
        files = [path for path, facts in self.original.items() if stat.S_ISREG(facts[0])]
        total = sum(os.lstat(self.tree / path).st_size for path in files)
        print(f"{self.tree}: {len(self.original)} entries, {len(files)} files, {total / 1e6:.0f} MB, {os.cpu_count()} processors")

    def own(self, *arguments):
        return [self.binary, "wim", *arguments]

    def fastest(self, job, tool, commands, note=""):
        """The fastest of several runs."""
        runs = [measure(command) for command in commands]
        cpu, wall, peak = min(runs, key=lambda run: run[1])
        return self.table.add(Row(job, tool, cpu, wall, peak, note))

    def compare(self, compression):
        files = {tool: self.work / f"{tool}-{compression}.wim" for tool in ("remint", "wimlib")}
        capture = {
            "remint": self.own("capture", self.tree, files["remint"], "--compress", compression, "--name", "tree"),
            "wimlib": ["wimlib-imagex", "capture", self.tree, files["wimlib"], f"--compress={compression}", "--unix-data"],
        }
        # The first reads the tree into memory for the other.
        for tool in ("wimlib", "remint"):
            row = self.table.run(f"capture {compression}", tool, capture[tool])
            row.size = files[tool].stat().st_size
            self.table.note(f"{row.size} bytes")
        file = files["wimlib"]
        self.fastest(f"verify {compression}", "remint", [self.own("verify", file)] * self.rounds)
        self.fastest(f"verify {compression}", "wimlib", [["wimlib-imagex", "verify", file]] * self.rounds)
        theirs = [self.memory / f"theirs{number}" for number in range(self.rounds)]
        ours = [self.memory / f"ours{number}" for number in range(self.rounds)]
        self.fastest(f"apply {compression}", "remint", [self.own("apply", file, "1", folder) for folder in ours])
        self.fastest(f"apply {compression}", "wimlib", [["wimlib-imagex", "apply", file, "1", folder, "--unix-data"] for folder in theirs])
        self.same(ours[0], f"{compression}: wimlib's capture, applied by remint")
        for folder in (*ours, *theirs):
            shutil.rmtree(folder)
        self.given_back(files["remint"], compression)

    def given_back(self, file, what):
        """wimlib verifies what we wrote and gives it back."""
        references = [f"--ref={self.work}/split*.swm"] if file.suffix == ".swm" else []
        subprocess.run(["wimlib-imagex", "verify", file, *references], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folder = self.work / "back"
        subprocess.run(["wimlib-imagex", "apply", file, "1", folder, "--unix-data", *references], check=True, stdout=subprocess.DEVNULL)
        self.same(folder, f"{what}: remint's capture, applied by wimlib")
        shutil.rmtree(folder)

    def source(self):
        """A file of ours with XPRESS."""
        source = self.work / "remint-xpress.wim"
        if not source.exists():
            subprocess.run(self.own("capture", self.tree, source, "--compress", "xpress", "--name", "tree"), check=True, stdout=subprocess.DEVNULL)
        return source

    def solid(self):
        """Ours for wimlib, wimlib's for us."""
        solid, theirs, folder = self.work / "solid.wim", self.work / "theirs.esd", self.work / "given"
        self.table.run("export solid lzx", "remint", self.own("export", self.source(), "1", solid, "--compress", "lzx", "--solid", "--integrity"))
        self.table.note(f"{solid.stat().st_size} bytes")
        self.given_back(solid, "solid")
        subprocess.run(["wimlib-imagex", "capture", self.tree, theirs, "--solid", "--solid-compress=lzx", "--unix-data"], check=True, stdout=subprocess.DEVNULL)
        self.table.run("apply solid", "remint", self.own("apply", theirs, "1", folder))
        self.same(folder, "wimlib's solid capture, applied by remint")
        shutil.rmtree(folder)

    def split(self):
        split, folder = self.work / "split.swm", self.work / "given"
        self.table.run("export split", "remint", self.own("export", self.source(), "1", split, "--split", "100"))
        self.table.note(f"{len(list(self.work.glob('split*.swm')))} parts")
        self.given_back(split, "split")
        subprocess.run(["wimlib-imagex", "split", self.source(), self.work / "theirs.swm", "100"], check=True, stdout=subprocess.DEVNULL)
        self.table.run("apply split", "remint", self.own("apply", self.work / "theirs.swm", "1", folder))
        self.same(folder, "wimlib's set, applied by remint")
        shutil.rmtree(folder)

    def store(self):
        """Two WIMs that share nine tenths: what the second adds, and what wimlib says of both when they come out."""
        new_bytes = self.change_a_tenth(self.work / "changed")
        site = self.work / "site"
        subprocess.run([self.binary, "init", "--data", site], check=True, stdout=subprocess.DEVNULL)
        sizes = [folder_bytes(site / "store")]
        for name, tree in (("first", self.tree), ("second", self.work / "changed")):
            file, back = self.work / f"{name}.wim", self.work / f"{name}-back.wim"
            subprocess.run(["wimlib-imagex", "capture", tree, file, "--compress=xpress", "--unix-data"], check=True, stdout=subprocess.DEVNULL)
            self.table.run(f"import {name}", "remint", [self.binary, "image", "import", file, "--name", name, "--data", site])
            sizes.append(folder_bytes(site / "store"))
            subprocess.run([self.binary, "image", "export", name, back, "--data", site], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["wimlib-imagex", "verify", back], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.table.note(f"{sizes[1] - sizes[0]} bytes for the first; {sizes[2] - sizes[1]} more for the second, which has "
                        f"{new_bytes} bytes of new and random content; wimlib verifies both exports")

    def change_a_tenth(self, folder):
        """The tree with files of a tenth of its bytes gone, and as many random bytes in new files; gives how many."""
        subprocess.run(["cp", "-al", self.tree, folder], check=True)
        files = sorted(path for path, facts in self.original.items() if stat.S_ISREG(facts[0]))
        wanted = sum(os.lstat(self.tree / path).st_size for path in files) // 10
        gone = 0
        for path in files[::7]:
            if gone >= wanted:
                break
            gone += os.lstat(folder / path).st_size
            os.unlink(folder / path)
        (folder / "new").mkdir()
        for number in range(64):
            (folder / "new" / str(number)).write_bytes(os.urandom(gone // 64))
        return gone // 64 * 64

    def same(self, folder, what):
        found = snapshot(folder)
        different = [path for path in self.original.keys() | found.keys() if self.original.get(path) != found.get(path)]
        for path in sorted(different)[:5]:
            print(f"  differs: {path}\n    {self.original.get(path)}\n    {found.get(path)}")
        if different:
            sys.exit(f"{what}: {len(different)} entries differ")
        self.table.note(f"identical, {len(found)} entries: {what}")

    def ratios(self):
        print("\nremint's share of wimlib's:")
        rows = {(row.job, row.tool): row for row in self.table.rows}
        for own in (row for row in self.table.rows if row.tool == "remint"):
            peer = rows.get((own.job, "wimlib"))
            if peer:
                size = f", size {own.size / peer.size:.4f}" if hasattr(own, "size") else ""
                print(f"  {own.job:<18} wall {own.wall / peer.wall:.2f}, CPU {own.cpu / peer.cpu:.2f}{size}; peak {own.peak:.0f} MiB")


def folder_bytes(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def snapshot(folder):
    """All that a folder holds, by path: mode, owner, time of writing in 100 ns, content, links, attributes."""
    seen, inodes = {}, {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files, *([""] if parent == str(folder) else [])]:
            path = os.path.join(parent, name) if name else parent
            found = os.lstat(path)
            relative = os.path.relpath(path, folder)
            content = ""
            if stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha1").hexdigest()
            elif not stat.S_ISDIR(found.st_mode):
                content = str(found.st_rdev)
            attributes = sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in os.listxattr(path, follow_symlinks=False))
            seen[relative] = [found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns // 100, content, attributes, None]
            if not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1:
                inodes.setdefault(found.st_ino, []).append(relative)
    for names in inodes.values():
        for name in names:
            seen[name][-1] = tuple(sorted(names))
    return {path: (facts[0], *map(repr, facts[1:])) for path, facts in seen.items()}
