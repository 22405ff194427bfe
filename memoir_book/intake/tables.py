"""ADNI's tables, merged or single, dated or not, joined into one row per visit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from memoir_core.config import SCORES
from memoir_core.files import checksum
from memoir_core.tables import EXPECTED, RANGES, CohortError, Problem, day_first, parse, read_text

NAMES = json.loads(Path(__file__).parents[1].joinpath("adni.json").read_text(encoding="utf-8"))
DATE = r"(?:[_-]?(\d{1,2}[a-z]{3}\d{4}|\d{4}[_-]\d\d[_-]\d\d))?(?: ?\(\d+\))?\.(?:csv|tsv|txt)"
BOXES = [f"CD{box}" for box in ("MEMORY", "ORIENT", "JUDGE", "COMMUN", "HOME", "CARE")]
SCREENING = ("sc", "scmri", "v01", "v02", "4_sc")
VALUES = ("DX", *SCORES)
PEOPLE = ("PTGENDER", "PTEDUCAT", "APOE4", "born")
COLUMNS = ("RID", "PTID", "code", "code2", "COLPROT", "SITE", *VALUES, "EXAMDATE", *PEOPLE, "AGE")
COLUMNS += ("EXAMDATE_bl", "IMAGEUID")
MONTH, YEAR = 30.4375, 365.25  # days
Said = dict[str, list[str]]  # a choice or a reason -> the rows, people or files


def find_tables(files: list[Path], said: Said) -> dict[str, list[Path]]:
    """Find ADNI's tables by name, dated or not; of several editions take the newest, and say so.

    Raises CohortError where two of one date differ.
    """
    editions: dict[tuple[str, str], list] = {}
    for file in files:
        for table, known in NAMES["tables"].items():
            name = rf"(?i)(?:all_subjects_)?({known['file']}){DATE}"
            if match := re.fullmatch(name, file.name):
                day = pd.to_datetime((match[2] or "1Jan1990").replace("_", "-"), errors="coerce")
                editions.setdefault((table, match[1].lower()), []).append((day, file))
    found: dict[str, list[Path]] = {}
    for (table, _), dated in editions.items():
        newest = [file for day, file in dated if day == max(day for day, _ in dated)]
        if len(newest) > 1 and len({checksum(file) for file in newest if file.is_file()}) > 1:
            what, mend = f"and {newest[1]} are of one date and differ", "keep one in the folder"
            raise CohortError(Problem(str(newest[0]), what, mend))
        found.setdefault(table, []).append(newest[0])
        older = [file for _, file in dated if file != newest[0]]
        note(said, "an older edition of a table, or a copy, is left out", older)
    return found


def tidy(file: Path, table: str, problems: list[Problem], said: Said) -> pd.DataFrame:
    """Read one table: its columns in ADNIMERGE's names, parsed, and `code`, `code2` (VISCODE2).

    What is not as `EXPECTED` goes to `problems`.
    """
    text = read_text(file).rename(columns=str.upper)
    text = text.loc[:, ~text.columns.duplicated()].astype(object)
    _derive(text)
    wanted = NAMES["tables"][table]["columns"]
    rows = pd.DataFrame({"line": text.index}, text.index)
    for field, columns in {**NAMES["every table"], **wanted}.items():
        filled = text.reindex(columns=[name for name in columns if name in text])
        filled = filled.loc[:, filled.notna().any()]
        if not len(filled.columns):
            if field in wanted and field in (*VALUES, *PEOPLE):
                said[f"{file.name} has no {field} ({', '.join(columns)})"] = []
            continue
        written = filled.bfill(axis=1).iloc[:, 0].astype("str")
        name = filled.columns[0]
        if name == "DIAGNOSIS":
            said[f"{file.name}: DIAGNOSIS is DX (1 = CN, 2 = MCI, 3 = Dementia)"] = []
        if field == "born":
            rows[field] = _middle_of_month(written)
            continue
        rows[field] = parse(written.rename(field))
        if field.startswith("EXAMDATE") and (first := day_first(written)) is not False:
            said[f"{file.name}, {name}: the dates begin with the day"] = []
            if first is None:
                what = "some dates begin with the day, some with the month"
                problems.append(Problem(str(file), what, "write all like 2012-05-31", "", name))
        for line in written.index[written.notna() & rows[field].isna()]:
            what = f"{written[line][:80]!r} is not {EXPECTED.get(field)}"
            mend = "correct it, or leave the field empty if it is unknown"
            problems.append(Problem(str(file), what, mend, str(line), name))
    for code, name in (("code", "VISCODE"), ("code2", "VISCODE2")):
        rows[code] = text[name].str.lower() if name in text else None
    return rows.assign(table=table, file=file.name)


def _derive(text: pd.DataFrame) -> None:
    """Add what stands in several columns: CDR's sum of boxes, the alleles, the day of birth."""
    if "DXCHANGE" in text:
        text["DXCHANGE"] = text["DXCHANGE"].str.removesuffix(".0").replace(NAMES["a newer state"])
    if {*BOXES} <= {*text}:
        boxes = text[BOXES].apply(pd.to_numeric, errors="coerce")
        text["BOXES"] = (
            boxes.sum(axis=1, min_count=6).where(boxes.notna().all(axis=1)).map(str, "ignore")
        )
    if {"APGEN1", "APGEN2"} <= {*text}:
        text["ALLELES"] = text["APGEN1"].str[:1] + "/" + text["APGEN2"].str[:1]
    for name in {"GENOTYPE", "ALLELES"} & {*text}:
        both = text[name].str.extract(r"([234])\D*([234])")
        text[name] = (both == "4").sum(axis=1).astype(str).where(both.notna().all(axis=1))
    if "PTDOBYY" in text:
        month = text["PTDOBMM"].fillna("7") if "PTDOBMM" in text else "7"
        text["BORN"] = month + "/" + text["PTDOBYY"].str[:4]


def _middle_of_month(text: pd.Series) -> pd.Series:
    day = pd.to_datetime(text, format="mixed", errors="coerce")
    return day.dt.to_period("M").dt.to_timestamp() + pd.Timedelta(days=14)


def note(said: Said, what: str, which: Iterable) -> None:
    """Add to a report what was found where, if it was."""
    if which := [*map(str, which)]:
        said.setdefault(what, []).extend(which)


def _where(rows: pd.DataFrame) -> list[str]:
    return [f"{file} line {line}" for file, line in zip(rows["file"], rows["line"], strict=True)]


def join(rows: pd.DataFrame, said: Said) -> tuple[pd.DataFrame, pd.Series]:
    """Join the rows of all tables into visits: ADNIMERGE before the single tables, bl before sc.

    Returns one row per visit, in ADNIMERGE's columns and with AGE at the baseline, and the visit
    by PTID and VISCODE as the phases write it. Raises CohortError where one RID stands under two
    PTIDs or one PTID under two RIDs.
    """
    rows = rows.reindex(columns=[*dict.fromkeys([*rows, *COLUMNS])])  # empty if no table gives it
    rows = _visits(_named(rows), said)
    merged, keys = rows["table"] == "ADNIMERGE", ["PTID", "VISCODE"]
    if merged.any():
        rows["SITE"] = rows["SITE"].where(merged)  # SITEID is another coding
    group = rows.groupby([*keys, "table", "screening"])
    for name in (*VALUES, "EXAMDATE"):
        bad = (group[name].transform("nunique") > 1) & rows[name].notna()
        what = (
            f"two rows of one table contradict each other in the {name} of a visit; neither counts"
        )
        note(said, what, _where(rows[bad]))
        rows[name] = rows[name].mask(bad)
    rows = rows.sort_values(["single", "screening", "order"], kind="stable")
    twins = rows.groupby(keys)["screening"].nunique().loc[lambda n: n > 1]
    what = "screening and baseline are one visit, bl; what bl has counts, what it lacks is of sc"
    note(said, what, [" ".join(key) for key in twins.index])
    people = rows.sort_values(["single", "EXAMDATE"], kind="stable").groupby("PTID")
    visits = rows.groupby(keys, as_index=False).first()
    _compare(rows, visits, said)
    for name in ("RID", "SITE", *PEOPLE):
        visits[name] = visits["PTID"].map(people[name].first())
        if name in PEOPLE:
            many = people[name].nunique().loc[lambda n: n > 1].index
            note(said, f"{name} differs between the rows of a person; the first counts", many)
    visits["SITE"] = visits["SITE"].fillna(visits["PTID"].str[:3].str.lstrip("0"))
    visits = _ages(visits, said)
    kept = visits[[*VALUES]].notna().any(axis=1) | ~visits["single"]
    visits = visits[kept]
    for name, why in (("EXAMDATE", " (USERDATE is the day of entry)"), ("PTGENDER", "")):
        absent = visits[name].isna()
        which = visits.loc[absent, "PTID"] + " " + visits.loc[absent, "VISCODE"]
        note(said, f"a visit whose {name} stands in no table{why} is left out", which)
        visits = visits[~absent]
    labels = rows.dropna(subset="code").drop_duplicates(["PTID", "code"])
    labels = labels.set_index(["PTID", "code"])["VISCODE"]
    return visits.sort_values(["RID", "EXAMDATE"], ignore_index=True), labels


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Give every row PTID and RID, also where its table has one of them only."""
    pairs = rows[["PTID", "RID", "file", "line"]].dropna().drop_duplicates(["PTID", "RID"])
    problems = []
    for key, other in (("PTID", "RID"), ("RID", "PTID")):
        for row in pairs[pairs.duplicated(key)].to_dict("records"):
            names = ", ".join(map(str, pairs.loc[pairs[key] == row[key], other]))
            what = f"one {key} ({row[key]}) stands under two {other}s ({names})"
            mend = "correct one, or drop its rows: one person must not be two"
            problems.append(Problem(row["file"], what, mend, str(row["line"]), key))
    if problems:
        raise CohortError(*problems)
    ptid = rows["PTID"].fillna(rows["RID"].map(pairs.set_index("RID")["PTID"]))
    rid = rows["RID"].fillna(ptid.map(pairs.set_index("PTID")["RID"]))
    return rows.assign(PTID=ptid, RID=rid.fillna(pd.to_numeric(ptid.str[6:])))


def _visits(rows: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Say to which visit each row belongs: VISCODE2, what it is elsewhere, else VISCODE."""
    note(said, "a row whose PTID no table gives is left out", _where(rows[rows["PTID"].isna()]))
    rows = rows[rows["PTID"].notna()]
    second, code = (parse(rows[name].astype("str").rename("VISCODE")) for name in ("code2", "code"))
    if second.notna().any():
        said.setdefault("VISCODE2 says the visit, VISCODE only where it is empty", [])
    known = rows.assign(VISCODE=second).dropna(subset=["VISCODE", "code"])
    known = known.drop_duplicates(["PTID", "code"]).set_index(["PTID", "code"])["VISCODE"]
    told = known.reindex(pd.MultiIndex.from_frame(rows[["PTID", "code"]])).set_axis(rows.index)
    new = rows["COLPROT"].eq("ADNI4").groupby(rows["PTID"]).transform("all")  # 4_bl is their bl
    fourth = parse(rows["code"].str.removeprefix("4_").where(new).rename("VISCODE"))
    visit = second.fillna(told).fillna(code).fillna(fourth)
    order = rows["table"].map([*NAMES["tables"]].index)
    screening = rows["code2"].fillna(rows["code"]).isin(SCREENING)
    single = order > 0
    rows = rows.assign(VISCODE=visit, order=order, single=single, screening=screening)
    failed = single & (visit == "f")
    note(said, "a failed screening is no visit and left out", _where(rows[failed]))
    lost = visit.isna() & ~rows["table"].isin(["PTDEMOG", "APOERES"])
    what = "a row is left out: neither VISCODE2 nor another table says which visit VISCODE is"
    note(said, what, _where(rows[lost]))
    return rows[~failed & ~lost].copy()


def _compare(rows: pd.DataFrame, visits: pd.DataFrame, said: Said) -> None:
    """Note what the single tables add to ADNIMERGE, and where they say another thing."""
    named = (visits["PTID"] + " " + visits["VISCODE"]).set_axis(visits.index)
    if (~visits["single"]).any():
        for phase, added in named[visits["single"]].groupby(visits["COLPROT"], dropna=False):
            note(said, f"visits of {phase} that ADNIMERGE lacks, from the single tables", added)
    keys = ["PTID", "VISCODE"]
    for name in VALUES:
        one = rows[~rows["single"]].groupby(keys)[name].first()
        other = rows[rows["single"]].groupby(keys)[name].first().reindex(one.index)
        filled, differs = one.isna() & other.notna(), one.notna() & other.notna() & (one != other)
        which = [" ".join(key) for key in one.index[filled]]
        note(said, f"{name} that ADNIMERGE lacks, from the single tables", which)
        which = [" ".join(key) for key in one.index[differs]]
        note(said, f"{name} differs between ADNIMERGE and its own table; ADNIMERGE counts", which)
    own = rows[~rows["screening"] & ~rows["table"].isin(["PTDEMOG", "APOERES"])]
    dates = own.groupby(keys)["EXAMDATE"]
    far = (dates.max() - dates.min()).dt.days.loc[lambda days: days > 90].index
    what = "tables date one visit more than 90 days apart; the upper table's date counts"
    note(said, what, map(" ".join, far))


def _ages(visits: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Add EXAMDATE_bl, and make AGE the age on that day: by ADNIMERGE, else by birth."""
    ptid, date = visits["PTID"], visits["EXAMDATE"]
    months = pd.to_numeric(visits["VISCODE"].str.extract(r"^m(\d+)$")[0])
    back = date - pd.to_timedelta((months * MONTH).round(), unit="D")
    start = pd.to_datetime(visits["EXAMDATE_bl"]).groupby(ptid).transform("min")
    start = start.fillna(date.where(visits["VISCODE"] == "bl").groupby(ptid).transform("min"))
    what = "no table dates the baseline; it is reckoned back from the months of the visits"
    note(said, what, ptid[start.isna()].unique())
    start = start.fillna(back.groupby(ptid).transform("min"))
    note(said, "visits dated before the baseline", (ptid + " " + visits["VISCODE"])[date < start])
    years = (date - start).dt.days / YEAR
    age, grown = visits["AGE"].astype(float), visits["AGE"].astype(float) - years
    constant, growing = (
        a.groupby(ptid).transform(lambda a: a.max() - a.min()) <= 0.5 for a in (age, grown)
    )
    what = "AGE grows from visit to visit; the age at the baseline is reckoned back"
    note(said, what, ptid[~constant & growing].unique())
    lost = age.notna() & ~constant & ~growing
    note(said, "AGE contradicts itself; birth counts, or it stays empty", ptid[lost].unique())
    age = age.where(constant, grown.where(growing)).groupby(ptid).transform("median")
    birth = ((start - pd.to_datetime(visits["born"])).dt.days / YEAR).round(2)
    far = (age - birth).abs() > 1.5
    note(said, "AGE and the day of birth disagree by years; AGE counts", ptid[far].unique())
    note(
        said,
        "AGE is of the date of birth and the baseline",
        ptid[age.isna() & birth.notna()].unique(),
    )
    age = age.fillna(birth)
    age = age.where(age.between(*RANGES["AGE"]))
    note(said, "no table gives an age that can be; it stays empty", ptid[age.isna()].unique())
    return visits.assign(AGE=age, EXAMDATE_bl=start)
