"""How the synthetic cohort was calibrated: `python benchmarks/calibration.py --run quick-seed0`.

The effect sizes and noises in `synthetic_adni/` (tables, anatomy, render) were chosen so that
the published *pattern* appears. Three measurements decided:

1. clinical scores: logistic regression on tables of the published size, five splits;
2. images: logistic regression on principal components of the cached volumes, a cheap lower
   bound of what a network can find;
3. the network: the seven subsets of a run's ablation, if that run is there.

To change the calibration: SCORE_DRIFT moves 1 (higher is harder); BRAIN_DRIFT, T1_NOISE and
REGIONS, and for FA also FA_NOISE, FA_ATROPHY and TRACTS, move 2 and 3. ENROLLED, PHASES and
VENDORS move what is measured, whose own accuracy is told under 1. Raise VERSION afterwards, so
that stale downloads are made anew.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memoir_book import chapters, published
from memoir_book.baselines import baselines
from memoir_book.store import start_chapter
from memoir_core import config
from memoir_core.cohort import build_cohort, load_cohort, read_adnimerge, read_images
from memoir_core.volumes import load_volumes
from synthetic_adni.write import write_tables


def clinical(seeds: int) -> pd.DataFrame:
    """Balanced accuracy of the scores alone on 2,363 subjects, per task, over splits."""
    paper = config.PROFILES["paper"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), paper.subjects, paper.fa_fraction)
        for seed in range(seeds):
            visits = read_adnimerge(Path(folder) / "ADNIMERGE.csv")
            cohort, _ = build_cohort(visits, read_images(Path(folder) / "images.csv"), None, seed)
            found = baselines(cohort)
            row = {t: found[f"{t} logistic"]["balanced_accuracy"] for t in ("dx3", "dx2")}
            rows.append(row | {"presence": presence(cohort)})
    return pd.DataFrame(rows)


def presence(cohort: pd.DataFrame) -> float:
    """Balanced accuracy in three classes of what was measured, FA and MoCA, without values."""
    known = np.stack([cohort["has_fa"], cohort["MOCA"].notna()], axis=1).astype(float)
    dx, test = cohort["DX"].to_numpy(), (cohort["split"] == "test").to_numpy()
    model = LogisticRegression(class_weight="balanced").fit(known[~test], dx[~test])
    return float(balanced_accuracy_score(dx[test], model.predict(known[test])))


def linear(volumes: np.ndarray, cohort: pd.DataFrame, components: int = 50) -> dict[str, float]:
    """Balanced accuracy of a linear model on voxels: dx3 and CN against Dementia."""
    x = np.asarray(volumes, np.float32).reshape(len(volumes), -1)
    dx, train = cohort["DX"].to_numpy(), (cohort["split"] != "test").to_numpy()
    found = {}
    for task, rows in (("dx3", np.ones(len(dx), bool)), ("dx2", dx != "MCI")):
        model = make_pipeline(
            PCA(components, random_state=0),
            StandardScaler(),
            LogisticRegression(C=0.05, max_iter=2000, class_weight="balanced"),
        )
        model.fit(x[train & rows], dx[train & rows])
        predicted = model.predict(x[~train & rows])
        found[task] = balanced_accuracy_score(dx[~train & rows], predicted)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", default="", help="a finished run, such as quick-seed0")
    parser.add_argument("--seeds", type=int, default=5, help="splits for the clinical scores")
    options = parser.parse_args()
    known = published.figure("ablation_balanced_accuracy")
    scores = clinical(options.seeds)
    rows = [
        {
            "what": f"clinical scores, logistic, {options.seeds} splits",
            "task": task,
            "published": known[task]["clinical"] if task in known else np.nan,
            "synthetic": f"{scores[task].mean():.3f} (SD {scores[task].std():.3f})",
        }
        for task in scores
    ]
    folder = chapters.runs_dir() / options.run
    if options.run:
        run = start_chapter("03", run=options.run, device="cpu")
        cohort = load_cohort(run.path("cohort.parquet"))
        data = load_volumes(run.path("volumes.json"), chapters.cache_dir())
        has_fa = data.fa_row >= 0
        images = {
            "t1": linear(data.t1, cohort),
            "dti": linear(data.fa[data.fa_row[has_fa]], cohort[has_fa], 30),
        }
        for name, found in images.items():
            for task, value in found.items():
                rows.append(
                    {
                        "what": f"{name}, linear on voxels, {run.profile.name}",
                        "task": task,
                        "published": known[task][name],
                        "synthetic": f"{value:.3f}",
                    }
                )
        if (folder / "ablation.csv").exists():
            table = pd.read_csv(folder / "ablation.csv")
            for row in table[table["task"].isin(["dx3", "dx2"])].to_dict("records"):
                rows.append(
                    {
                        "what": f"{row['subset']}, network, {options.run}",
                        "task": row["task"],
                        "published": row["published"],
                        "synthetic": f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                    }
                )
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
