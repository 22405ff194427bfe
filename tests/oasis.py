"""A made-up folder in the layout of nilearn's `fetch_oasis_vbm`: nobody in it exists."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn import datasets
from scipy.ndimage import gaussian_filter

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
CDR = np.repeat([0.0, 0.5, 1.0, 2.0], [135, 70, 28, 2])


@cache
def grey_matter():
    """The MNI grey matter on SPM's 2 mm grid, first axis to the left."""
    template = datasets.load_mni152_gm_template(resolution=2)  # from -98, -134, -72 mm
    return template.get_fdata(dtype=np.float32)[4:95, 4:113, :91][::-1]


def sheet(seed=0):
    """436 sessions with the known counts of CDR; the first 235 people have one."""
    rng = np.random.default_rng(seed)
    n, old = 416, len(CDR)
    cdr = np.full(n, np.nan)
    cdr[:old] = rng.permutation(CDR)
    asked = ~np.isnan(cdr)
    age = np.where(asked, rng.integers(60, 97, n), rng.integers(18, 60, n))
    age[:old][np.flatnonzero(cdr[:old] == 0)[:37]] = 45  # healthy ones who are younger
    away = np.nan_to_num(cdr)
    table = pd.DataFrame({"ID": [f"OAS1_{i + 1:04d}_MR1" for i in range(n)]})
    table["M/F"] = rng.choice(["M", "F"], n)
    table["Hand"], table["Age"] = "R", age
    table["Educ"] = np.where(asked, rng.integers(1, 6, n), np.nan)
    table["SES"] = np.where(asked, rng.integers(1, 6, n), np.nan)
    table["MMSE"] = np.where(asked, (29.5 - 5 * away - rng.integers(0, 3, n)).clip(0), np.nan)
    table["CDR"] = cdr
    table["eTIV"] = rng.integers(1150, 1950, n)
    table["nWBV"] = (0.87 - 0.0017 * age - 0.02 * away + rng.normal(0, 0.01, n)).round(3)
    table["ASF"] = (1755 / table["eTIV"]).round(3)
    table["Delay"] = "N/A"
    again = table[~asked].head(20)  # young people who came twice
    again = again.assign(ID=again["ID"].str[:9] + "_MR2", Delay=20)
    return pd.concat([table, again], ignore_index=True)


def oasis(folder, subjects=30, seed=0):
    """Write oasis1/ into a folder, with maps of so many people of 60 and older, class by class."""
    table = sheet(seed)
    home = Path(folder) / "oasis1"
    home.mkdir(parents=True)
    table.to_csv(home / "oasis_cross-sectional.csv", index=False)
    (home / "data_usage_agreement.txt").write_text("MADE UP: be kind to those who took part.\n")
    usable = table[(table["Age"] >= 60) & table["CDR"].notna()]
    turn = usable.groupby(usable["CDR"].clip(upper=1)).cumcount()  # one of each class in turn
    rng, brain = np.random.default_rng(seed), grey_matter()
    for row in usable.loc[turn.sort_values(kind="stable").index[:subjects]].itertuples():
        lost = 0.004 * (row.Age - 60) + 0.15 * min(row.CDR, 1) + rng.normal(0, 0.03)
        inner = np.zeros(brain.shape, np.float32)  # about the temporal lobes, where it is worst
        inner[20:71, 40:70, 15:40] = 1
        field = 1 - lost * (0.5 + gaussian_filter(inner, 4))
        noise = gaussian_filter(rng.normal(0, 1, brain.shape).astype(np.float32), 1.5)
        density = (brain * (field + 0.25 * noise)).clip(0, 1.5)
        density[density < 0.02] = 0
        name = f"mwrc1{row.ID}_mpr_anon_fslswapdim_bet.nii.gz"
        (home / row.ID).mkdir()
        nib.save(nib.Nifti1Image(density.astype(np.float32), AFFINE), home / row.ID / name)
    return Path(folder)
