"""The book run and built once for the end-to-end and the browser tests.

`finished` and `site` in conftest.py call this module.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from memoir_core import config

RUNS = Path(os.environ.get("MEMOIR_TEST_RUNS", config.ROOT / "runs" / ".test"))
NAME = "smoke-seed0"
HTML = config.ROOT / "book" / "_build" / "html"


def runner(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "memoir_book.run", "--profile", "smoke", *arguments],
        env=os.environ | {"MEMOIR_RUNS": str(RUNS / "papermill")},
        start_new_session=True,
    )


# When to kill: seconds after a chapter began, or after a file that it writes on its way.
KILL = {
    "01": ("run.json", 0.2),
    "04": ("stage1/history.csv", 0.3),
    "05": ("stage2/history.csv", 0.3),
    "07": ("", 10),
    "08": ("", 8),
    "09": ("answers_gemma-3-270m-nf4.jsonl", 0.5),
}


def kill_in(chapter, before, folder):
    """Start the runner, and stop it with signal 9 in a chapter; False if that had ended."""
    process = runner()
    deadline = time.time() + 600
    file, delay = KILL.get(chapter.number, ("", 2.5))
    begun = folder / (file or f"state/{before.name}.json")
    while not begun.exists():
        assert process.poll() is None, f"the run ended before chapter {chapter.number}"
        assert time.time() < deadline, f"chapter {chapter.number} did not begin in 10 minutes"
        time.sleep(0.05)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # a kernel notices within a second that its parent is gone
    return not (folder / "state" / f"{chapter.name}.json").exists()


def run_killed_in_every_chapter():
    """Run the book, kill it in every chapter, and let it finish."""
    folder = RUNS / "papermill" / NAME
    befores = (None, *config.CHAPTERS)
    killed = [
        chapter.number
        for before, chapter in zip(befores, config.CHAPTERS, strict=False)
        if kill_in(chapter, before, folder)
    ]
    print("killed in chapters", *killed)
    assert len(killed) >= 9, "a fast machine may finish a short chapter first, but not these"
    assert runner().wait() == 0
    return folder


def build():
    """Build the HTML from a clean start, with warnings as errors."""
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [str(tool), "build", ".", "--path-output", "book", "--all", "-W", "--keep-going"]
    done = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return HTML
