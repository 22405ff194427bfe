"""Feed damaged tables and images to the readers: `python tests/core/fuzz_readers.py --help`.

Each input is a valid file with some bytes changed. A reader may accept it or raise its named
error; anything else is a finding, and its bytes are kept. A slice of this runs with the tests.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np

from memoir_book.intake.text import read_text
from memoir_core import tables, volumes

TABLE = (
    ",".join(tables.REQUIRED)
    + "\n"
    + "7,002_S_0007,bl,2012-05-31,70.3,Male,1,CN,0,5,8,29,27\n"
    + '8,002_S_0008,m48,"5/31/2016",81,Female,,MCI to Dementia,4.5,-4,30.33,21,NA\n'
    + "9,003_S_0009,m06,2013-01-02,66.0,Female,2,,1.5,10,16,27,23\n"
).encode()
IMAGES = b"PTID,VISCODE,t1_path,fa_path\n002_S_0007,bl,a.nii.gz,\n002_S_0008,m48,b.nii,c.nii\n"
WORDS = (b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"-4", b"NA", b"1e999", b"nan", b"99999999999")
WORDS += (b"m9999", b"0000-00-00", b"\xef\xbb\xbf", b";", b"\t", b"CN", b"PTID,", b"inf")


def volume() -> bytes:
    """A small NIfTI file that covers the MNI grid: 9 x 11 x 9 voxels of 20 mm."""
    affine = np.diag([-20.0, 20, 20, 1])
    affine[:3, 3] = (80, -118, -62)
    data = np.random.default_rng(0).integers(0, 200, (9, 11, 9)).astype(np.int16)
    return nibabel.Nifti1Image(data, affine).to_bytes()


def mutate(data: bytes, rng: np.random.Generator, head: int) -> bytes:
    """Change, insert, delete, repeat or cut some bytes, mostly among the first `head`."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        end = min(head, len(out)) if rng.random() < 0.8 else len(out)
        at = int(rng.integers(0, max(1, end)))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 1:
            out[at : at + 1] = bytes([out[at] ^ (1 << int(rng.integers(8)))]) if out else b""
        elif kind == 2:
            out[at:at] = WORDS[int(rng.integers(len(WORDS)))]
        elif kind == 3:
            del out[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            out[at:at] = out[at : at + int(rng.integers(1, 40))]
        else:
            width = int(rng.choice([1, 2, 4, 8]))
            out[at : at + width] = rng.bytes(width)
        if rng.random() < 0.02:
            del out[at:]
    return bytes(out)


def one(kind: str, rng: np.random.Generator, folder: Path, base: bytes) -> tuple[str, bytes]:
    """Make and read one input; return 'read', the named error, or 'FINDING ...', and the bytes."""
    path = folder / {"table": "ADNIMERGE.csv", "images": "images.csv"}.get(kind, "scan.nii.gz")
    if kind in ("table", "images"):
        data = mutate(base, rng, len(base))
    elif kind == "packed":  # damage after compression
        data = mutate(gzip.compress(base, 1, mtime=0), rng, 200)
    else:  # damage before compression, or without: the header
        data = mutate(base, rng, 352)
        data = gzip.compress(data, 1, mtime=0) if rng.random() < 0.5 else data
    path.write_bytes(data)
    try:
        if kind == "table":
            tables.read_adnimerge(read_text(path))
        elif kind == "images":
            tables.read_images(read_text(path) if rng.random() < 0.5 else path)
        else:
            volumes.read_volume(path)
    except (tables.CohortError, volumes.VolumeError) as error:
        named = path.name in str(error)
        return (type(error).__name__ if named else "FINDING: the file is not named"), data
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"FINDING: {type(error).__name__} in {where.name}: {error}"[:160], data
    return "read", data


def fuzz(inputs: int, seed: int, keep: Path | None = None) -> Counter:
    """Try `inputs` damaged files; count the outcomes per kind of input."""
    import warnings

    warnings.simplefilter("ignore")
    nibabel.imageglobals.logger.setLevel("CRITICAL")
    bases = {"table": TABLE, "images": IMAGES, "header": volume(), "packed": volume()}
    outcomes: Counter = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(inputs):
            rng = np.random.default_rng([seed, number])  # any input can be made alone
            kind = list(bases)[number % 4]
            outcome, data = one(kind, rng, Path(scratch), bases[kind])
            outcomes[kind, outcome] += 1
            if keep and outcome.startswith("FINDING"):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}-{kind}").write_bytes(data)
    return outcomes


def findings(outcomes: Counter) -> list[str]:
    return [f"{kind}: {outcome}" for kind, outcome in outcomes if outcome.startswith("FINDING")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder for inputs that crash")
    options = parser.parse_args()
    started = time.time()
    outcomes = fuzz(options.inputs, options.seed, options.keep)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:8} {count:7}  {outcome}")
    bad = len(findings(outcomes))
    print(f"{options.inputs} inputs, {bad} kinds of crash, {time.time() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
