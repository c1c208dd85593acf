"""What one core can do of each thing that an image costs: cutting, hashing, compressing.

Measures with the disk image of the imaging benchmark, or with --file.
"""
import subprocess
from pathlib import Path

from measure import TOP


def add_arguments(parser):
    parser.add_argument("--data", default="target/bench", help="where the images of the imaging benchmark are kept")
    parser.add_argument("--file", help="measure with this file")


def run(arguments):
    file = Path(arguments.file or Path(arguments.data) / "v1.ext4").resolve()
    subprocess.run(["cargo", "bench", "--quiet", "--bench", "limits", "--", file], cwd=TOP, check=True)
