"""Downloads as they are given out, made from one that holds ADNIMERGE.csv and images.csv."""

from pathlib import Path

import pandas as pd

DAY = "_15Dec2025.csv"
CODES = {"CN": "1", "MCI": "2", "Dementia": "3", "": ""}
PHASES = {"bl": "v03", "m03": "v04", "m06": "v05", "m12": "v11", "m24": "v21", "m36": "v31"}


def read(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def single_tables(folder, visits, day=DAY):
    """Write ADNIMERGE's rows as seven tables, and demographics and diagnosis at the screening.

    Names, columns and codes are those of ADNI's data dictionary. Ages become months of birth.
    """
    folder.mkdir(parents=True, exist_ok=True)
    visits = visits.drop_duplicates(["PTID", "VISCODE"]).reset_index(drop=True)
    key = visits[["COLPROT", "PTID", "RID"]].rename(columns={"COLPROT": "PHASE"})
    key["VISCODE"] = visits["VISCODE"].map(PHASES).fillna(visits["VISCODE"])
    key = key.assign(VISCODE2=visits["VISCODE"], SITEID=visits["SITE"], USERDATE="2025-01-01")
    date = visits["EXAMDATE"]

    def put(name, rows=slice(None), **columns):
        table = key.assign(**columns)[rows]
        table.to_csv(folder / f"{name}{day}", index=False, quoting=1)

    put("DXSUM", EXAMDATE=date, DIAGNOSIS=visits["DX"].map(CODES))
    put("CDR", VISDATE=date, CDGLOBAL="0.5", CDRSB=visits["CDRSB"])
    put("MMSE", VISDATE=date, MMSCORE=visits["MMSE"])
    put("MOCA", VISDATE=date, MOCA=visits["MOCA"].replace("", "-1"))
    put("ADAS", VISDATE=date, TOTSCORE=visits["ADAS11"], TOTAL13=visits["ADAS13"])
    one = ~visits.duplicated("PTID")
    genotype = visits["APOE4"].map({"0": "3/3", "1": "3/4", "2": "4/4", "": ""})
    put("APOERES", one, GENOTYPE=genotype)
    first = pd.to_datetime(date).groupby(visits["PTID"]).transform("min")
    years = pd.to_numeric(visits["AGE"]) * 365.25
    born = first - pd.to_timedelta(years.round(), unit="D")
    key.loc[one, ["VISCODE", "VISCODE2"]] = ["v01", "sc"]  # before bl, and without bl's values
    sex = visits["PTGENDER"].map({"Male": "1", "Female": "2"})
    put(
        "PTDEMOG",
        one,
        VISDATE=(first - pd.Timedelta(days=20)).dt.date.astype(str),
        PTGENDER=sex,
        PTDOB=born.dt.strftime("%m/%Y"),
        PTEDUCAT=visits["PTEDUCAT"],
    )


def caps(folder, source, images):
    """Link the images of a download into a tree as Clinica's pipelines leave them.

    Beside each T1 lies its crop, beside each FA the one in native space and other maps.
    """
    for row in images.itertuples():
        month = 0 if row.VISCODE == "bl" else int(row.VISCODE[1:])
        names = f"sub-ADNI{row.PTID.replace('_', '')}", f"ses-M{month:03d}"
        base, stem = folder.joinpath("subjects", *names), "_".join(names)
        dti = base / "dwi" / "dti_based_processing"
        mni, grid = "space-MNI152NLin2009cSym", "res-1x1x1"
        for old, new in (
            (row.t1_path, base / f"t1_linear/{stem}_{mni}_desc-Crop_{grid}_T1w.nii.gz"),
            (row.t1_path, base / f"t1_linear/{stem}_{mni}_{grid}_T1w.nii.gz"),
            (row.fa_path, dti / f"native_space/{stem}_dwi_space-T1w_FA.nii.gz"),
            (row.fa_path, dti / f"native_space/{stem}_dwi_space-T1w_DECFA.nii.gz"),
            (row.fa_path, dti / f"normalized_space/{stem}_dwi_space-MNI152Lin_{grid}_FA.nii.gz"),
            (row.fa_path, dti / f"normalized_space/{stem}_dwi_space-MNI152Lin_{grid}_MD.nii.gz"),
        ):
            if old:
                new.parent.mkdir(parents=True, exist_ok=True)
                new.hardlink_to((Path(source) / old).resolve())
                new.with_name(f"._{new.name}").write_bytes(b"\0")  # what macOS leaves


def collection(path, rows):
    """Write IDA's table of a collection: (image ID, PTID, visit, description, type, date)."""
    columns = ["Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality"]
    columns += ["Description", "Type", "Acq Date", "Format", "Downloaded"]
    table = pd.DataFrame(rows, columns=["Image Data ID", "Subject", "Visit", *columns[7:10]])
    said = {"Group": "CN", "Sex": "F", "Age": "72", "Modality": "MRI", "Format": "NiFTI"}
    table.assign(**said, Downloaded="12/15/2025")[columns].to_csv(path, index=False, quoting=1)


def loni(folder, source):
    """Turn a download into what a researcher has: seven dated tables, and Clinica's tree."""
    folder, source = Path(folder), Path(source)
    single_tables(folder / "Study_Files", read(source / "ADNIMERGE.csv"))
    images = read(source / "images.csv")
    caps(folder / "caps", source, images)
    columns = {"MANUFACTURER": "mri_manufacturer"}
    if "MANUFACTURER" in images:
        scans = images[images["t1_path"] != ""].reset_index(drop=True).rename(columns=columns)
        scans = scans.assign(image_id=scans.index + 500001, image_visit=scans["VISCODE"])
        scans = scans.rename(columns={"PTID": "subject_id"})
        names = ["image_id", "subject_id", "image_visit", "mri_manufacturer"]
        scans[names].to_csv(folder / "Study_Files" / f"All_Subjects_Key_MRI{DAY}", index=False)
    return folder
