"""Run nbval with kernels that are forked from one process, which has the libraries loaded.

    python tests/forked/notebooks.py [arguments of pytest]

A kernel imports for ten to twenty seconds of one core what all chapters use. None of our own
modules is loaded beforehand, and `make endtoend` runs the same chapters in kernels of the usual
kind.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

# What chapters import of others. MONAI is not here: our `volumes` imports it in a way of its own.
LIBRARIES = ("torch", "pandas", "scipy.stats", "matplotlib.pyplot", "seaborn", "sklearn.pipeline")
LIBRARIES += ("sklearn.decomposition", "nilearn.image", "nilearn.datasets", "ipykernel.kernelapp")
LIBRARIES += ("ipywidgets", "pytest", "torch.utils.data", "torch.optim.swa_utils", "accelerate")
LIBRARIES += ("sentence_transformers", "transformers.models.bert", "peft", "faiss")


def serve(path: str) -> None:
    """Fork a kernel for each line that a client writes."""
    for name in LIBRARIES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        while True:
            line, _ = door.accept()
            asked = json.loads(line.makefile().readline())
            if os.fork():
                line.close()
                continue
            door.close()
            begin(asked, line)


def begin(asked: dict, line: socket.socket) -> None:
    """Become a kernel, which ends when its client does."""
    os.setsid()
    os.environ.clear()
    os.environ.update(asked["environ"])
    os.environ.pop("JPY_PARENT_PID", None)
    os.chdir(asked["folder"])
    line.sendall(str(os.getpid()).encode())
    threading.Thread(target=lambda: (line.recv(1), os._exit(0)), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # how to connect to it, which nobody asks
    sys.path[0] = ""
    launch_new_instance(argv=["-f", asked["file"], "--IPKernelApp.log_level=40"])
    os._exit(0)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = os.environ["MEMOIR_FORKS"] = str(Path(folder) / "forks")
        os.environ["JUPYTER_PATH"] = str(Path(__file__).parent)
        if not (server := os.fork()):
            serve(path)
        import pytest

        try:
            while not Path(path).exists():
                assert not os.waitpid(server, os.WNOHANG)[0], "the libraries cannot be loaded"
                time.sleep(0.2)
            return int(pytest.main(sys.argv[1:]))
        finally:
            os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
