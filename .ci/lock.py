"""Resolve the locks anew from pyproject.toml: `make lock`. Needs uv, and package indexes.

What is locked stays, unless it is asked for: `python3 .ci/lock.py --upgrade`, or
`--upgrade-package NAME`. One lock serves Linux, macOS and Windows and Python 3.11 to 3.13: at the
end it is resolved for each of the nine, from wheels alone.
"""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
UV = ("uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--universal")
UV += ("--generate-hashes", "--python-version", PYTHONS[0])
SUM = r"sha256:([0-9a-f]{64})"
HEADERS = {
    "requirements.lock": """\
# Every package that pyproject.toml names, and all that these bring with them, by version and by the
# hashes of their files: pip refuses a file that is another one. It constrains (-c), so that what a
# machine does not need, such as CUDA's packages beside PyTorch's CPU build, is left out. The last
# hashes of torch are those of PyTorch's own CPU builds for Linux, which are not on PyPI.
""",
    "requirements-sweep.txt": """\
# Snakemake, with all that it brings, for an environment of its own (see book/recipes.md).
""",
    "requirements-pip.txt": """\
# What installs all others: the pip that comes with Python is slow, and knows no groups.
""",
}


def compiled(name: str, *arguments: str) -> str:
    """Resolve; what the lock of this name holds already is preferred."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "lock")
        out.write_text((ROOT / name).read_text("utf-8"), "utf-8")
        subprocess.run([*UV, *arguments, *sys.argv[1:], "-o", str(out)], cwd=ROOT, check=True)
        return out.read_text("utf-8")


def cpu_hashes(version: str, before: str) -> list[str]:
    """Find the hashes of PyTorch's CPU builds for Linux: on its index, else in the lock before."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    index = re.search(r"^TORCH_INDEX := (\S+)", makefile, re.MULTILINE)[1]
    wheel = rf"/torch-{version}%2Bcpu-(cp31[123])-\1-manylinux\w+\.whl#sha256=([0-9a-f]{{64}})"
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=30) as answer:
            return [found[1] for found in re.findall(wheel, answer.read().decode())]
    except OSError as error:
        old = re.search(rf"^torch=={re.escape(version)} .*\n(?:    .*\n)*", before, re.MULTILINE)
        if not old:
            sys.exit(f"no hashes of torch {version}: {index} cannot be reached ({error})")
        return re.findall(SUM, old[0])


def packages(text: str) -> dict[str, str]:
    """Divide a lock into its packages: the first line -> all lines."""
    parts = re.findall(r"^([^#\s].*\n)((?:    .*\n)*)", text, re.MULTILINE)
    return {first: first + rest for first, rest in parts}


def write(name: str, text: str) -> None:
    (ROOT / name).write_text(HEADERS[name] + "# Made by `make lock`.\n" + text, "utf-8")


def main() -> None:
    name = "requirements.lock"
    before = (ROOT / name).read_text("utf-8")
    parts = packages(compiled(name, "pyproject.toml", "--group", "book", "--group", "dev"))
    parts |= packages(compiled(name, "--no-deps", "--group", "weights", "--group", "intake"))
    (torch,) = (first for first in parts if first.startswith("torch=="))
    sums = re.findall(SUM, parts[torch])
    sums += [s for s in cpu_hashes(torch[7:].split()[0], before) if s not in sums]
    parts[torch] = torch + " \\\n".join(f"    --hash=sha256:{value}" for value in sums) + "\n"
    write(name, "".join(parts[first] for first in sorted(parts, key=lambda f: f.split("==")[0])))
    write("requirements-sweep.txt", compiled("requirements-sweep.txt", "--group", "sweep"))
    only = ("--no-deps", "--group", "pip", "--constraint", name)
    write("requirements-pip.txt", compiled("requirements-pip.txt", *only))
    for platform in PLATFORMS:
        for python in PYTHONS:
            where = ("--python-platform", platform, "--python-version", python)
            check = ("uv", "pip", "compile", "--no-deps", "--only-binary", ":all:", name, *where)
            macos = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that torch knows
            told = {"cwd": ROOT, "env": macos, "capture_output": True, "text": True}
            done = subprocess.run(check, **told, check=False)
            print(platform, python, "FAILED\n" + done.stderr if done.returncode else "resolved")


if __name__ == "__main__":
    main()
