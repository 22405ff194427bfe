"""Kernels that are forks of one process: what they have, and how they end."""

import subprocess
import sys
import time

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from memoir_book import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, kernels are as usual")


def ask(client, code):
    """Let a kernel evaluate an expression."""
    reply = client.execute("", user_expressions={"it": code}, reply=True, timeout=60)
    return eval(reply["content"]["user_expressions"]["it"]["data"]["text/plain"])


def ended(process, seconds=30):
    """Wait for a process that need not be a child of ours."""
    deadline = time.time() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.time() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def forks():
    """A name to start kernels by. Their process loads `wave` as well, which no kernel needs."""
    with kernels.ready("ipykernel.kernelapp matplotlib.pyplot wave") as name:
        yield name


@pytest.fixture
def start(forks):
    started = []

    def one(**options):
        manager, client = start_new_kernel(kernel_name=forks, **options)
        started.append((manager, client))
        return manager, client

    yield one
    for manager, client in started:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


LOADED = "'wave' in __import__('sys').modules"
OURS = "[name for name in __import__('sys').modules if name.startswith('memoir')]"


def test_a_kernel_has_the_libraries_the_folder_and_the_environment_that_it_was_given(
    start, tmp_path
):
    _, first = start(cwd=str(tmp_path), env={"TOLD": "this"})
    assert ask(first, "__import__('os').getcwd()") == str(tmp_path)
    assert ask(first, "dict(__import__('os').environ)")["TOLD"] == "this"
    assert ask(first, OURS) == [] and ask(first, "__import__('sys').path[0]") == ""
    first.execute("import colorsys", reply=True, timeout=60)
    deadline = time.time() + 60
    while not ask(client := start()[1], LOADED):
        assert time.time() < deadline, "the libraries were not loaded beside the first kernel"
    assert not ask(client, LOADED.replace("wave", "colorsys")), "a kernel is a fork of another"


def test_a_figure_is_shown_though_matplotlib_was_loaded_before_its_kernel(start):
    deadline = time.time() + 60
    while not ask(client := start()[1], LOADED):  # the last of the libraries
        assert time.time() < deadline
    asked, shown = client.execute("import matplotlib.pyplot as plt; plt.plot([1, 2]);"), []
    while not shown or shown[-1]["content"].get("execution_state") != "idle":
        message = client.get_iopub_msg(timeout=60)
        shown += [message] if message["parent_header"].get("msg_id") == asked else []
    (figure,) = (m["content"]["data"] for m in shown if m["msg_type"] == "display_data")
    assert "image/png" in figure


def test_an_interrupt_reaches_the_kernel(start):
    manager, client = start()
    asked = client.execute("import time\nprint('begun')\nwhile True: time.sleep(0.01)")
    while client.get_iopub_msg(timeout=60)["content"].get("text") != "begun\n":
        pass
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_dead_kernel_is_seen_at_once(start):
    manager, client = start()
    psutil.Process(ask(client, "__import__('os').getpid()")).kill()
    deadline = time.time() + 30
    while manager.is_alive():
        assert time.time() < deadline, "its client lives on"
        time.sleep(0.05)


def test_a_kernel_starts_where_nobody_answers():
    known = {*psutil.Process().children()}
    with kernels.ready("") as name:
        (server,) = {*psutil.Process().children()} - known
        server.kill()
        assert ended(server)
        manager, client = start_new_kernel(kernel_name=name)
        assert ask(client, "1 + 1") == 2
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_kernel_starts_while_the_process_behind_is_amid_an_import(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(90)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with kernels.ready("slow") as name:
        for _ in range(2):  # the first begins before the import does
            manager, client = start_new_kernel(kernel_name=name, startup_timeout=45)
            assert ask(client, "1 + 1") == 2
            client.stop_channels()
            manager.shutdown_kernel(now=True)


SCRIPT = """
import time
from jupyter_client.manager import start_new_kernel
from memoir_book import kernels
with kernels.ready("ipykernel.kernelapp wave") as name:
    loaded = "False"
    while loaded != "True":  # the first kernel is a fork of a process without libraries
        manager, client = start_new_kernel(kernel_name=name)
        it = "'wave' in __import__('sys').modules, __import__('os').getpid()"
        reply = client.execute("", user_expressions={"it": it}, reply=True)
        told = reply["content"]["user_expressions"]["it"]["data"]["text/plain"]
        loaded, pid = told.strip("()").split(", ")
        if loaded != "True":
            manager.shutdown_kernel(now=True)
    print(pid, flush=True)
    time.sleep(60)
"""


def test_a_killed_runner_leaves_no_process():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE) as runner:
        kernel = psutil.Process(int(runner.stdout.readline()))
        others = psutil.Process(runner.pid).children(recursive=True)
        assert kernel in others and len(others) == 3  # the kernel, its client, the server
        runner.kill()
    for process in others:
        assert ended(process), process.cmdline()


def test_other_systems_start_kernels_as_usual(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with kernels.ready() as name:
        assert name == "python3"
