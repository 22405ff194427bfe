"""What a cohort lacks, and what the book then leaves out: said by `check` and in every chapter."""

import pandas as pd

from memoir_core.config import DX

ENOUGH, LEAST = 15, 5  # subjects of a class: for figures of its own; for a part to validate on
WITHOUT = {
    "CDRSB": "no CDR-SB: no CDR-SB head, no question on severity, no experiment with CDR-SB",
    **{"ADAS11": "no ADAS-11", "ADAS13": "no ADAS-13", "MMSE": "no MMSE"},
    **{"MOCA": "no MoCA", "APOE4": "no APOE4"},
}


def lacks(cohort: pd.DataFrame) -> list[str]:
    """Say in a sentence each what nobody in a cohort (of `build_cohort`) has, and who is few."""
    said, absent = [], [name for name in WITHOUT if cohort[name].isna().all()]
    if not cohort["has_fa"].any():
        said.append("no FA volume: chapters show T1 and scores only, and the subsets without FA")
    if len(absent) == len(WITHOUT):
        said.append("no score and no APOE4: no clinical modality, and the subsets without it")
    elif absent:
        said += [WITHOUT["CDRSB"]] * ("CDRSB" in absent)
        rest = ", ".join(WITHOUT[name] for name in absent if name != "CDRSB")
        said += [f"{rest}: captions and the clinical input go without"] * bool(rest)
    if cohort["EXAMDATE"].isna().all():
        said.append("no exam date: one visit each, so that nothing is said of time")
    sizes = cohort["DX"].value_counts().reindex(DX, fill_value=0)
    if few := [f"{name} ({n})" for name, n in sizes.items() if n < ENOUGH]:
        what = "a figure of it rests on three test subjects at most, and chapter 10 tells none"
        said.append(f"fewer than {ENOUGH} subjects of class {', '.join(few)}: {what}")
    return said
