"""Kernels that begin at once: each is a fork of one process, which has the libraries loaded.

The imports of a chapter take ten to twenty seconds of one core, and are much the same in all. None
of our own modules is loaded beforehand. On Linux only: elsewhere, libraries do not bear a fork.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

# What chapters import of others. MONAI is not here: our `volumes` imports it in a way of its own.
LIBRARIES = (
    "torch pandas scipy.stats matplotlib.pyplot ipykernel.kernelapp seaborn sklearn.pipeline "
    "nilearn.image nilearn.datasets ipywidgets pytest torch.utils.data torch.optim.swa_utils "
    "accelerate sklearn.decomposition sentence_transformers transformers.models.bert peft faiss"
)
PATIENCE = 5  # seconds that a client waits for its kernel


@contextmanager
def ready(libraries: str = LIBRARIES) -> Iterator[str]:
    """Yield the name of the kernel that Jupyter shall start as long as this context lasts."""
    if sys.platform != "linux" or len(gettempdir()) > 60:  # the name of a socket is short
        yield "python3"
        return
    with TemporaryDirectory() as folder:
        (spec := Path(folder, "kernels", "forked", "kernel.json")).parent.mkdir(parents=True)
        alone = [sys.executable, "-P", __file__]  # -P: beside this file lie names of libraries
        start = {"argv": [*alone, f"{folder}/door", "{connection_file}"]}
        spec.write_text(json.dumps(start | {"display_name": "Python 3", "language": "python"}))
        before = os.environ.get("JUPYTER_PATH", "")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, before] if before else [folder])
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(f"{folder}/door")
            door.listen()
            given = [*alone, str(door.fileno()), libraries]
            told = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
            server = subprocess.Popen(given, pass_fds=[door.fileno()], cwd=folder, env=told)
        with server:  # alone it holds the door: where it dies, nobody waits there
            try:
                yield "forked"
            finally:
                server.kill()
                os.environ["JUPYTER_PATH"] = before


def engine() -> str:
    """Name an engine of papermill that writes a notebook at its end: its own does twice a cell."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Once(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            path, nb_man.output_path = nb_man.output_path, None
            try:
                super().execute_managed_notebook(nb_man, kernel_name, **options)
            finally:
                nb_man.output_path = path

    papermill_engines.register("once", Once)
    return "once"


def serve(door: socket.socket, left: list[str]) -> None:
    """Fork a kernel for each line that a client writes; load the libraries while nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the runner and the kernel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    parent, loading = os.getppid(), False
    while os.getppid() == parent:
        if not select.select([door], [], [], 0 if loading and left else 1)[0]:
            if loading and left:
                with suppress(Exception):  # a chapter that wants it will say what is wrong
                    importlib.import_module(left.pop(0))
            continue
        line, _ = door.accept()
        loading = True  # only now, beside the first kernel: a run may have nothing to do
        asked = json.loads(line.makefile().readline())
        if not os.fork():
            door.close()
            begin(asked, line)
        line.close()


def begin(asked: dict, line: socket.socket) -> None:
    """Become a kernel, which ends when its client or the process that it is a fork of does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.environ.clear()
    os.environ.update(asked["environ"])
    os.chdir(asked["folder"])
    with suppress(OSError):  # a client that has lost patience, and reads no more: see the thread
        line.sendall(str(os.getpid()).encode())
    threading.Thread(target=lambda: (line.recv(1), os._exit(0)), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # how to connect to it, which nobody asks
    sys.path.insert(0, "")
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"
    launch_new_instance(argv=["-f", asked["file"], parent, *asked["options"]])
    os._exit(0)


def ask(door: str, file: str, *options: str) -> None:
    """Ask for a kernel, and live as long as it does; become one where nobody answers soon."""
    asked = {"file": file, "options": options, "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX) as line:
        kernel = b""
        line.settimeout(PATIENCE)  # it may be amid an import, which takes minutes on a busy disk
        with suppress(OSError):
            line.connect(door)
            line.sendall(json.dumps(asked | {"environ": {**os.environ}}).encode() + b"\n")
            kernel = line.recv(16)
        if not kernel:
            usual = [sys.executable, "-m", "ipykernel_launcher", "-f", file, *options]
            os.execv(usual[0], usual)
        signal.signal(signal.SIGINT, lambda *_: os.kill(int(kernel), signal.SIGINT))
        signal.signal(signal.SIGTERM, lambda *_: os.kill(int(kernel), signal.SIGKILL))
        line.settimeout(None)
        line.recv(1)  # nothing comes: the kernel has ended


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2].split())
    else:
        ask(*sys.argv[1:])
