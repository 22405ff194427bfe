"""What comes from outside runs nothing of its own: values of make, sweep files, packages."""

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from memoir_book import chapters

ROOT = chapters.ROOT
LOG = '#!/bin/sh\nfor part in "$@"; do printf "[%s]" "$part"; done >> log\necho >> log\n'
VALUES = [
    *("/data/my adni", "/data/O'Brien", '/data/a"b', "/data/$HOME", "/data/$$HOME", "/data/Дані"),
    *("/data/a`touch PWN`", "/data/$(touch PWN)", "/data/$(shell touch PWN)", "/data/x; touch PWN"),
    *("/data/a#b", 'x"; touch PWN; "', "/data/a\\", "/data/%s$@"),
]


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose Python writes down what it is given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(LOG)
    (tools / "python").chmod(0o755)
    for name in ("pyproject.toml", *(path.name for path in ROOT.glob("requirements*"))):
        (tmp_path / name).touch()
    (tools / "activate").write_text(f"VIRTUAL_ENV={tmp_path}/.venv")  # else it is made anew
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("version = 3.11.7\n")
    for name in ("installed", "ready"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def make(folder, target, **values):
    """What the programs of a target are given, a line each; and that nothing else was made."""
    (folder / "log").unlink(missing_ok=True)
    given = [f"{name}={value}" for name, value in values.items()]
    done = subprocess.run(
        ["make", "-s", target, *given], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not list(folder.rglob("PWN*")), values
    assert done.returncode == 0, done.stderr
    return (folder / "log").read_text()


@pytest.mark.parametrize("value", VALUES)
def test_values_of_make_reach_programs_as_they_are(checkout, value):
    said = make(checkout, "book", DATA=value, RUN=value, WEIGHTS=value, PROFILE=value, SEED=value)
    first, second = said.splitlines()
    for line in (first, second):
        for option in ("data", "run", "profile", "seed"):
            assert f"[--{option}][{value}]" in line, line
    assert f"[--param][weights={value}]" in first
    assert f"[--device][{value}]" in make(checkout, "doctor", DEVICE=value)
    assert f"[--run][{value}]" in make(checkout, "html", RUN=value)


def test_values_from_the_environment_reach_programs_as_they_are(checkout, monkeypatch):
    monkeypatch.setenv("DATA", "/data/$(touch PWN) `touch PWN` $HOME")
    assert "[--data][/data/$(touch PWN) `touch PWN` $HOME]" in make(checkout, "book")


@pytest.mark.parametrize("private", [False, True], ids=["synthetic", "real"])
def test_a_pdf_is_printed_of_the_pages_just_built_and_lies_beside_them(checkout, private):
    """Of real people: in their run, for its owner only, and not the public book of before."""
    built = checkout / ("runs/adni paper/book/_build" if private else "book/_build")
    built.mkdir(parents=True)
    tool = checkout / ".venv" / "bin" / "python"
    tool.write_text(f'#!/bin/sh\necho a line\necho "The book: {built}/singlehtml/index.html"\n')
    chromium = checkout / "chromium"
    chromium.write_text(
        LOG + 'for part in "$@"; do case "$part" in --print-to-pdf=*) '
        'echo > "${part#--print-to-pdf=}";; esac; done\n'
    )
    chromium.chmod(0o755)
    (checkout / "log").touch()
    said = make(checkout, "pdf", RUN="adni paper", CHROMIUM=chromium)
    assert f"[--print-to-pdf={built}/memoir-vlm.pdf]" in said
    assert f"[file://{built}/singlehtml/book/intro.html]" in said
    assert list(checkout.rglob("*.pdf")) == [built / "memoir-vlm.pdf"]
    mode = (built / "memoir-vlm.pdf").stat().st_mode & 0o777
    assert mode == (0o600 if private else 0o644)


def test_without_pages_no_pdf_is_printed(checkout):
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    shutil.copy("/bin/true", checkout / "chromium")
    command = ["make", "-s", "pdf", f"CHROMIUM={checkout / 'chromium'}"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode and "Printed" not in done.stdout and not list(checkout.rglob("*.pdf"))


def test_a_sweep_gives_the_shell_nothing_but_quoted_words():
    """Snakemake's `:q` quotes each part of a list; nothing else is put into a command."""
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    commands = re.findall(r"^    +shell:\n +(.*)\n", text, re.MULTILINE)
    assert len(commands) == text.count("shell:") == 2
    assert all(command.startswith('"{params.command:q}"') for command in commands)


@pytest.fixture
def snakemake():
    path = f"{ROOT}/.venv/sweep/bin:{os.environ['PATH']}"
    return shutil.which("snakemake", path=path) or pytest.skip("see requirements-sweep.txt")


def test_a_sweep_file_runs_no_command(checkout, snakemake, monkeypatch):
    monkeypatch.setenv("MEMOIR_RUNS", str(checkout / "the runs"))
    value = '`touch PWN` $(touch PWN) O\'Brien "x"; touch PWN'
    sweep = {"base": {"visit": value}}
    given = {"data": value, "python": str(checkout / ".venv" / "bin" / "python"), "to": "01"}
    given |= {"sweep": sweep, "device": value}
    (checkout / "sweep.json").write_text(json.dumps(given))
    command = [snakemake, "-j1", "--snakefile", str(ROOT / "Snakefile"), "--latency-wait", "0"]
    command += ["--configfile", "sweep.json"]
    subprocess.run(command, cwd=checkout, capture_output=True, check=False)
    assert not list(checkout.rglob("PWN*"))
    said = (checkout / "log").read_text()
    assert f"[--data][{value}]" in said and f"[--param=visit={value}]" in said
    assert f"[--device][{value}]" in said


def test_a_sweep_with_a_name_that_is_no_folder_is_refused(checkout, snakemake):
    command = [snakemake, "-n", "--snakefile", str(ROOT / "Snakefile"), "--config"]
    command += ['sweep={"../../x":{}}']
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode and "must be a plain folder name" in done.stdout + done.stderr


# --- what builds and publishes ----------------------------------------------------------


def jobs():
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, job in told["jobs"].items():
            yield f"{path.name}: {name}", told.get("permissions"), job


def test_no_job_that_runs_packages_may_write():
    """Whoever publishes runs nothing but the action that does; no token stays in the checkout."""
    for where, above, job in jobs():
        rights = job.get("permissions", above)
        assert rights is not None and above in ({}, {"contents": "read"}), where
        runs = [s for s in job["steps"] if "run" in s or "checkout" in s.get("uses", "")]
        assert not runs or rights == {"contents": "read"}, where
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, where
            assert "${{" not in step.get("run", ""), where  # a title or branch is no command
    publishing = [job for where, _, job in jobs() if where == "publish.yml: publish"]
    assert [job["permissions"]["pages"] for job in publishing] == ["write"]


def test_actions_are_pinned_by_commit():
    text = "".join(path.read_text() for path in (ROOT / ".github").rglob("*.yml"))
    used = re.findall(r"uses: (.*)", text)
    assert len(used) >= 6
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


# --- packages ---------------------------------------------------------------------------


def locked(name="requirements.lock"):
    """Name and version -> how many hashes."""
    found = {}
    for part in re.findall(r"^[a-z0-9].*\n(?:    .*\n?)*", (ROOT / name).read_text(), re.MULTILINE):
        key = re.match(r"([a-z0-9-]+==[\w.]+)", part)[1]
        found[key] = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", part))
    return found


def test_every_package_is_locked_by_hashes():
    assert all(locked("requirements-sweep.txt").values())
    assert len(locked("requirements-sweep.txt")) > 50
    hashes = locked("requirements-pip.txt") | locked()
    assert len(hashes) > 200 and all(hashes.values())
    assert hashes.keys() >= locked("requirements-pip.txt").keys()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = groups["dependency-groups"] | {"core": groups["project"]["dependencies"]}
    assert groups.keys() == {"core", "pip", "book", "dev", "weights", "intake", "sweep"}
    of_sweeps = dict(key.split("==") for key in locked("requirements-sweep.txt"))
    of_book = dict(key.split("==") for key in hashes)
    for group, wanted in groups.items():
        for line in map(Requirement, wanted):
            pins = of_sweeps if group == "sweep" else of_book
            assert line.specifier.contains(pins[canonicalize_name(line.name)]), f"{group}: {line}"
    call = r"(?:\$\(PIP\) |pip install --quiet (?!--disable)).*?(?=\$\(PIP\) |$)"
    installs = [
        found
        for path in ("Makefile", "Dockerfile", *(ROOT / ".github" / "workflows").iterdir())
        for line in (ROOT / path).read_text().replace("\\\n", " ").splitlines()
        for found in re.findall(call, line)
    ]
    assert len(installs) == 10
    for line in installs:
        ours = "--no-build-isolation --editable ." in line
        assert ours or "-c requirements.lock" in line or "--require-hashes" in line, line
        assert "--extra-index-url" not in line  # of two indexes, either could give any package


def test_the_lock_fits_every_python_and_system():
    """Each package once for each; CUDA on Linux alone."""
    lines = re.findall(
        r"^([a-z0-9].*?)(?: ;(.*?))? \\$", (ROOT / "requirements.lock").read_text(), re.M
    )
    machines = [
        ("linux", "Linux", "x86_64"),
        ("darwin", "Darwin", "arm64"),
        ("win32", "Windows", "AMD64"),
    ]
    for python in ("3.11", "3.12", "3.13"):
        for platform, system, machine in machines:
            here = {"python_version": python, "python_full_version": f"{python}.9"}
            here |= {
                "sys_platform": platform,
                "platform_system": system,
                "platform_machine": machine,
            }
            here |= {"os_name": "nt" if platform == "win32" else "posix"}
            names = [p.split("==")[0] for p, m in lines if not m or Marker(m).evaluate(here)]
            assert len(names) == len({*names}) > 200
            assert ("nvidia-cublas" in names) == (platform == "linux")
            assert {"torch", "faiss-cpu", "bitsandbytes", "jupyter-book"} <= {*names}


def test_what_is_installed_is_what_is_locked():
    """A run of the tests is one of the locked versions."""
    from importlib.metadata import PackageNotFoundError, version

    pairs = [key.split("==") for key in locked()]
    wrong, known = [], set()
    for name, wanted in pairs:
        with contextlib.suppress(PackageNotFoundError):
            found = version(name).partition("+")[0]
            known |= {name} if found == wanted else set()
            wrong += [] if found == wanted else [name]
    assert not {*wrong} - known  # another Python has another line of the lock
    assert len(known) > 150


# --- known weaknesses of packages -------------------------------------------------------


@pytest.fixture
def audited(tmp_path):
    """Call the script of `make audit`, its pip-audit one that asks a service on this machine."""
    state = {"requests": "PYSEC-2018-28", "bad": ""}

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.split("/")[2]
            known = state.get(name, "") or (name == state["bad"] and "PYSEC-2026-1")
            flaws = [{"id": known, "aliases": [], "details": "", "fixed_in": []}] if known else []
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulnerabilities": flaws}).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for folder in (tmp_path / ".venv" / "bin", tmp_path / ".venv" / "audit" / "bin"):
        folder.mkdir(parents=True)
        (folder / "python").write_text(AUDITOR.format(sys.executable, server.server_port))
        (folder / "python").chmod(0o755)

    def call(**changed):
        state.update(changed)
        script = ["sh", str(ROOT / ".ci" / "audit.sh")]
        return subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)

    yield call
    server.shutdown()


# Python that answers `-m pip_audit` as pip-audit does, from what the service says.
AUDITOR = """#!{}
import json, sys, urllib.request
words = sys.argv[1:]
if words[:2] in (["-m", "pip"], ["-m", "venv"]):
    sys.exit(0)
if words[:1] == ["-c"]:
    exec(words[1])
    sys.exit(0)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
def flaws(name):
    with opener.open(f"http://127.0.0.1:{}/pypi/{{name}}/json") as answer:
        return json.load(answer)["vulnerabilities"]
if "--requirement" in words:
    found = flaws("requests")
    print(f"Found {{len(found)}} known vulnerabilities in 1 package" if found else "No known")
    sys.exit(bool(found))
names = ["numpy", "torch"]
told = [dict(name=n, version="1", vulns=flaws(n)) for n in names]
open(words[words.index("--output") + 1], "w").write(json.dumps({{"dependencies": told}}))
sys.exit(any(t["vulns"] for t in told))
"""


def test_audit_tells_known_weaknesses_none_and_no_answer_apart(audited, tmp_path):
    clean = audited()
    assert clean.returncode == 0 and "no known weakness" in clean.stdout, clean.stderr
    assert json.loads((tmp_path / "audit.json").read_text())["dependencies"]
    failed = audited(bad="torch")
    assert failed.returncode == 1 and "FAILED: see audit.json" in failed.stderr
    empty = audited(requests="")  # an index without a list of weaknesses
    assert empty.returncode == 2 and "NOT DONE" in empty.stderr
