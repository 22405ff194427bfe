"""The book run and built once for the end-to-end and the browser tests.

`finished` and `site` in conftest.py call this module.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from memoir_book import manifest
from memoir_book.chapters import CHAPTERS, ROOT

RUNS = Path(os.environ.get("MEMOIR_TEST_RUNS", ROOT / "runs" / ".test"))
NAME = "smoke-seed0"
HTML = ROOT / "book" / "_build" / "html"
HERE = {"MEMOIR_RUNS": str(RUNS / "papermill")}

# When to kill: seconds after the chapter before has left its page, or after a file on the way: of a
# training, what it goes on from.
# The chapters that cache, train and answer, which have something to go on from.
KILL = {
    "02": ("", 6),
    "04": ("stage1/.state/epoch*", 0.3),
    "05": ("stage2/.state/epoch*", 0.3),
    "06": ("stage2_scratch/.state/epoch*", 0.3),
    "09": ("plan.jsonl", 5),
}


def runner():
    command = [sys.executable, "-m", "memoir_book.run", "--profile", "smoke"]
    return subprocess.Popen(command, env=os.environ | HERE, start_new_session=True)


def kill_in(chapter, before, folder):
    """Start the runner, and stop it with signal 9 in a chapter; False if that had ended."""
    process = runner()
    deadline = time.time() + 600
    file, delay = KILL[chapter.number]
    begun = folder / (file or f"notebooks/{before.name}.ipynb")
    while not any(begun.parent.glob(begun.name)):
        assert process.poll() is None, f"the run ended before chapter {chapter.number}"
        assert time.time() < deadline, f"chapter {chapter.number} did not begin in 10 minutes"
        time.sleep(0.05)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # a kernel notices within a second that its parent is gone
    return chapter.name not in manifest.read_manifest(folder).get("chapters", {})


def run_killed_on_the_way():
    """Run the book, kill it in the chapters of `KILL`, and let it finish."""
    folder = RUNS / "papermill" / NAME
    pairs = [pair for pair in itertools.pairwise(CHAPTERS) if pair[1].number in KILL]
    killed = [chapter.number for before, chapter in pairs if kill_in(chapter, before, folder)]
    print("killed in chapters", *killed)
    assert killed == [*KILL], "a fast machine may have finished one first: kill it earlier"
    assert runner().wait() == 0
    return folder


def build():
    """Build the HTML of the finished run from a clean start, with warnings as errors."""
    command = [sys.executable, "-m", "memoir_book.pages", "--run", NAME, "--strict"]
    done = subprocess.run(
        command, env=os.environ | HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return HTML
