"""What a cohort is, holds and lacks; one other than ADNI has a dataset.json beside its tables."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from memoir_core.config import DX
from memoir_core.files import read_json

from .messages import refusal, say

FILE = "dataset.json"
ENOUGH, LEAST = 15, 5  # subjects of a class: for figures of its own; for a part to validate on
CLINICAL = {"CDRSB": "CDR-SB", "ADAS11": "ADAS-11", "ADAS13": "ADAS-13", "MMSE": "MMSE"}
CLINICAL |= {"MOCA": "MoCA", "APOE4": "APOE4"}


@dataclass(frozen=True)
class Dataset:
    """Names of a cohort and of what it holds. The defaults are ADNI's."""

    name: str = "ADNI"
    t1: str = "T1"  # what the column t1_path of images.csv holds, in a word or two
    kind: str = "t1"  # or 'gm': densities, in which no ventricle can be measured
    classes: dict[str, str] = field(default_factory=dict)  # class -> what it stands for here
    baseline: str = ""  # a column of ADNIMERGE.csv that chapter 5 sets beside the network
    notes: list[str] = field(default_factory=list)  # sentences that stand in every chapter

    def reword(self, text: str, classes: bool = True) -> str:
        """Call images, and `classes`, by this cohort's names; `notes` and names of columns stay."""
        words = {"T1": self.t1, "t1": self.kind} | (self.classes if classes else {})
        lines = text.split("\n")
        for old, new in words.items():
            word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9]|_path)")
            lines = [t if t in self.notes else word.sub(new, t) for t in lines]
        return "\n".join(lines)

    def describe(self, cohort: pd.DataFrame, data_dir: Path) -> pd.DataFrame:
        """Add to a cohort what only this one has: DX_NAME for the captions, the baseline."""
        if self.classes:
            cohort = cohort.assign(DX_NAME=cohort["DX"].replace(self.classes))
        if self.baseline:
            sheet = pd.read_csv(data_dir / "ADNIMERGE.csv").set_index("PTID")[self.baseline]
            cohort = cohort.assign(**{self.baseline: cohort["PTID"].map(sheet)})
        return cohort

    def measures(self, found: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
        """`Volumes.measures` (n rows), without what means nothing here, and with the baseline."""
        known = found if self.kind == "t1" else found.assign(ventricle_share=np.nan)
        return known.join(cohort[[self.baseline]]) if self.baseline else known

    def measured(self, found: pd.DataFrame) -> str:
        """What a table of `measures` holds, in words: 'ventricle and fornix', 'nWBV alone'."""
        names = [re.sub("_.*", "", str(name)) for name in found.dropna(axis=1, how="all")]
        return " and ".join(names) if len(names) > 1 else f"{''.join(names)} alone"


def read_dataset(folder: Path) -> Dataset:
    """Read a download's dataset.json; ADNI's names without one. CohortError: it is damaged."""
    if not (path := Path(folder) / FILE).exists():
        return Dataset()
    try:
        found = {f.name: read_json(path)[f.name] for f in fields(Dataset)}
        if re.search(r"[<>&`\\]|\]\(", str(found)) or found["name"] == "synthetic":
            raise ValueError(say("markup"))
        return Dataset(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise refusal("damaged dataset", path) from error


def lacks(cohort: pd.DataFrame) -> list[str]:
    """Say in a sentence each what nobody in a cohort (of `build_cohort`) has, and who is few.

    That is what the book leaves out: `check` says it, and every chapter.
    """
    said = [] if cohort["has_fa"].any() else [say("no FA")]
    absent = {name: f"no {words}" for name, words in CLINICAL.items() if cohort[name].isna().all()}
    if len(absent) == len(CLINICAL):
        said.append(say("no clinical"))
    else:
        said += [say("no CDRSB")] * bool(absent.pop("CDRSB", ""))
        said += [say("no scores", rest=", ".join(absent.values()))] * bool(absent)
    if cohort["EXAMDATE"].isna().all():
        said.append(say("no date"))
    sizes = cohort["DX"].value_counts().reindex(DX, fill_value=0)
    if few := [f"{name} ({n})" for name, n in sizes.items() if n < ENOUGH]:
        said.append(say("small classes", enough=ENOUGH, few=", ".join(few)))
    return said
