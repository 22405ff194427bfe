"""ADNI's tables, merged or single, dated or not, joined into one row per visit."""

import re
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd

from memoir_core import tables as core
from memoir_core.config import SCORES
from memoir_core.files import checksum
from memoir_core.tables import CohortError, Problem, day_first, parse

from ..messages import problem, refusal, say
from .images import DAYS, NAMES
from .text import read_text

VALUES = ("DX", *SCORES)
PEOPLE = ("PTGENDER", "PTEDUCAT", "APOE4", "born")
COLUMNS = ["RID", "PTID", "code", "code2", "COLPROT", "SITE", *VALUES, "EXAMDATE", *PEOPLE, "AGE"]
COLUMNS += ["EXAMDATE_bl", "IMAGEUID"]
MONTH, YEAR = 30.4375, 365.25  # days
Said = dict[str, list[str]]  # a choice, or a reason to leave out -> rows, visits, people or files


def note(said: Said, key: str, which: Iterable, **words: Any) -> None:
    """Add to the report what (see `messages`) was found where, if it was."""
    if which := [*map(str, which)]:
        said.setdefault(say(key, **words), []).extend(which)


def find_tables(files: list[Path], said: Said) -> dict[str, list[Path]]:
    """Find ADNI's tables by name, dated or not; of several editions the newest, which is said.

    Raises CohortError where two of one date differ.
    """
    editions: dict[tuple[str, str], list] = {}
    for table, known in NAMES["tables"].items():
        name = rf"(?i)(?:all_subjects_)?({known['file']}){NAMES['date in a name']}"
        for file in files:
            if match := re.fullmatch(name, file.name):
                day = pd.to_datetime((match[2] or "1Jan1990").replace("_", "-"), errors="coerce")
                editions.setdefault((table, match[1].lower()), []).append((day, file))
    tables: dict[str, list[Path]] = {}
    for (table, _), dated in editions.items():
        newest = [file for day, file in dated if day == max(day for day, _ in dated)]
        if len(newest) > 1 and len({*map(checksum, newest)}) > 1:
            raise refusal("two editions", newest[0], other=newest[1])
        tables.setdefault(table, []).append(newest[0])
        note(said, "older edition", (file for _, file in dated if file != newest[0]))
    return tables


def read_visits(tables: dict[str, list[Path]], said: Said) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read and join tables: one row per visit in ADNIMERGE's columns, and the rows it came from.

    AGE is that at EXAMDATE_bl. Raises CohortError with all values that are not as expected, and
    where a person is two.
    """
    problems: list[Problem] = []
    rows = [tidy(path, name, problems, said) for name, paths in tables.items() for path in paths]
    if problems:
        raise CohortError(*problems)
    table = pd.concat(rows, ignore_index=True)
    table = table.reindex(columns=[*dict.fromkeys([*table, *COLUMNS])])  # empty if nothing gives it
    table = name_visits(name_people(table), said)
    return keep(ages(join(table, said), said), said), table


def tidy(file: Path, table: str, problems: list[Problem], said: Said) -> pd.DataFrame:
    """Read one table: its columns in ADNIMERGE's names, parsed, and `code`, `code2` (VISCODE2).

    What is not as expected goes to `problems`.
    """
    text = read_text(file).rename(columns=str.upper)
    text = text.loc[:, ~text.columns.duplicated()].astype("str")
    codes = text.apply(lambda column: column.str.fullmatch(core.MISSING_CODE))
    text = text.mask(text.isin(core.MISSING) | codes)
    _derive(text)
    own, rows = NAMES["tables"][table]["columns"], pd.DataFrame({"line": text.index}, text.index)
    for field, columns in {**NAMES["every table"], **own}.items():
        filled = text[text.columns.intersection(columns)].dropna(axis=1, how="all")
        if filled.empty:
            if field in (*VALUES, *PEOPLE):
                said[say("no column", file=file.name, field=field, names=", ".join(columns))] = []
            continue
        names = [name for name in columns if name in filled]
        written = reduce(pd.Series.fillna, (text[name] for name in names))
        rows[field] = written if field == "born" else parse(written.rename(field))
        if names[0] == "DIAGNOSIS":
            said[say("DIAGNOSIS", file=file.name)] = []
        if field in core.DATES and day_first(written) is None:
            problems.append(Problem(str(file), core.MIXED, core.AS_ISO, "", names[0]))
            continue
        if field in core.DATES and day_first(written):
            said[say("day first", file=file.name, name=names[0])] = []
        for line, value in written[written.notna() & rows[field].isna()].items():
            words = {"value": value[:80], "expected": core.EXPECTED.get(field)}
            problems.append(problem("no value", file, line, names[0], **words))
    for code, name in (("code", "VISCODE"), ("code2", "VISCODE2")):
        rows[code] = text[name].str.lower() if name in text else None
    said[say("rows", file=file, n=len(rows))] = []
    return rows.assign(table=table, file=file.name)


def _derive(text: pd.DataFrame) -> None:
    """Add what stands in several columns: CDR's sum of boxes, the alleles, the day of birth."""
    if "DXCHANGE" in text:
        newer = NAMES["newer state of DXCHANGE"]
        text["DXCHANGE"] = text["DXCHANGE"].str.removesuffix(".0").replace(newer)
    if {*NAMES["boxes of CDR"]} <= {*text}:
        boxes = text[NAMES["boxes of CDR"]].apply(pd.to_numeric, errors="coerce")
        text["BOXES"] = boxes.sum(axis=1, skipna=False).map(str, "ignore")
    if {"APGEN1", "APGEN2"} <= {*text}:
        text["ALLELES"] = text["APGEN1"] + "/" + text["APGEN2"]
    for name in {"GENOTYPE", "ALLELES"} & {*text}:
        both = text[name].str.extract(r"([234])(?:\.0)?/[Ee]?([234])")
        text[name] = (both == "4").sum(axis=1).astype("str").where(both.notna().all(axis=1))
    if "PTDOBYY" in text:
        month = text.reindex(columns=["PTDOBMM"])["PTDOBMM"].astype("str").fillna("7")
        text["BORN"] = month + "/" + text["PTDOBYY"].str[:4]
    for name in {"PTDOB", "BORN"} & {*text}:  # the middle of the month; of the year if it is absent
        day = pd.to_datetime(text[name].str.replace(".0", ""), format="mixed", errors="coerce")
        text[name] = day.dt.strftime("%Y-%m-15")


def name_people(rows: pd.DataFrame) -> pd.DataFrame:
    """Give every row PTID and RID, also where its table has one of them only.

    Raises CohortError where one stands under two of the other.
    """
    problems = []
    for key, other in (("PTID", "RID"), ("RID", "PTID")):
        names = rows.groupby(key)[other].nunique()
        for name in names.index[names > 1]:
            files = ", ".join(rows.loc[rows[key] == name, "file"].unique())
            problems.append(problem("two people", files, id=key, name=name, other=other))
    if problems:
        raise CohortError(*problems)
    ptid = rows["PTID"].astype("str").fillna(rows["RID"].map(rows.groupby("RID")["PTID"].first()))
    rid = rows["RID"].fillna(ptid.map(rows.groupby("PTID")["RID"].first()))
    return rows.assign(PTID=ptid, RID=rid.fillna(pd.to_numeric(ptid.str[6:], errors="coerce")))


def name_visits(rows: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Say to which visit each row belongs: VISCODE2, what it is elsewhere, else VISCODE."""
    second, code, fourth = (
        parse(rows[name].astype("str").str.removeprefix(prefix).rename("VISCODE"))
        for name, prefix in (("code2", ""), ("code", ""), ("code", "4_"))
    )
    if second.notna().any():
        said[say("VISCODE2")] = []
    pair = rows["PTID"] + " " + rows["code"].astype("str")
    elsewhere = pair.map(second.groupby(pair).first())
    new = rows["COLPROT"].eq("ADNI4").groupby(rows["PTID"]).transform("all")  # 4_bl is their bl
    visit = second.fillna(elsewhere).fillna(code).fillna(fourth.where(new.eq(True)))
    single = rows["table"] != "ADNIMERGE"
    rows = rows.assign(VISCODE=visit, single=single, visit=rows["PTID"] + " " + visit)
    rows["screening"] = rows["code2"].fillna(rows["code"]).isin(NAMES["screening"])
    rows["place"] = rows["file"] + " line " + rows["line"].astype("str")
    rows["person"] = rows["table"].isin(["APOERES", "PTDEMOG"])
    for key, out in (
        ("nameless row", rows["PTID"].isna()),
        ("failed screening", single & (visit == "f")),
        ("unknown VISCODE", visit.isna() & ~rows["person"]),
    ):
        note(said, key, rows["place"][out])
        rows = rows[~out.reindex(rows.index)]
    return rows.copy()


def join(rows: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Join the rows into visits: ADNIMERGE before the single tables, bl before the screening."""
    if not rows["single"].all():
        rows["SITE"] = rows["SITE"].mask(rows["single"])  # SITEID is another coding
    group = rows[~rows["person"]].groupby(["visit", "table", "screening"])
    for name in (*VALUES, "EXAMDATE"):
        two = group[name].transform("nunique").reindex(rows.index) > 1
        note(said, "contradiction", rows["place"][two], name=name)
        rows[name] = rows[name].mask(two)
    rows = rows.sort_values(["single", "screening"], kind="stable")
    twins = rows.groupby("visit")["screening"].nunique()
    note(said, "screening", twins.index[twins > 1])
    _compare(rows, said)
    visits = rows.groupby("visit", as_index=False).first()
    people = rows.sort_values(["single", "EXAMDATE"], kind="stable").groupby("PTID")
    for name in ("RID", "SITE", *PEOPLE):
        visits[name] = visits["PTID"].map(people[name].first())
        many = people[name].nunique()
        note(said, "person differs", many.index[many > 1], name=name)
    return visits.assign(SITE=visits["SITE"].fillna(visits["PTID"].str[:3].str.lstrip("0")))


def _compare(rows: pd.DataFrame, said: Said) -> None:
    """Note what the single tables add to ADNIMERGE, and where they say another thing."""
    merged, single = (rows[rows["single"] == s].groupby("visit")[[*VALUES]].first() for s in (0, 1))
    single = single.reindex(merged.index)
    lacks = merged.isna() & single.notna()
    other = merged.notna() & single.notna() & (merged != single)
    for name in VALUES:
        note(said, "added value", lacks.index[lacks[name]], name=name)
        note(said, "other value", other.index[other[name]], name=name)
    dates = rows[~rows["screening"] & ~rows["person"]].groupby("visit")["EXAMDATE"]
    far = (dates.max() - dates.min()).dt.days
    note(said, "dates apart", far.index[far > DAYS], days=DAYS)


def ages(visits: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Add EXAMDATE_bl, and make AGE the age on that day: by ADNIMERGE, else by birth."""
    ptid, date = visits["PTID"], visits["EXAMDATE"]

    def first(days: pd.Series) -> pd.Series:
        return pd.to_datetime(days).groupby(ptid).transform("min")

    months = pd.to_numeric(visits["VISCODE"].str.extract(r"^m(\d+)$")[0])
    start = first(visits["EXAMDATE_bl"]).fillna(first(date.where(visits["VISCODE"] == "bl")))
    note(said, "no baseline", ptid[start.isna()].unique())
    start = start.fillna(first(date - pd.to_timedelta((months * MONTH).round(), unit="D")))
    note(said, "before baseline", visits["visit"][date < start])
    given, years = visits["AGE"].astype(float), (date - start).dt.days / YEAR
    both = pd.DataFrame({"fixed": given, "grows": given - years}).groupby(ptid)
    spread = (both.transform("max") - both.transform("min")).le(0.5)
    age = given.where(spread["fixed"], (given - years).where(spread["grows"]))
    age = age.groupby(ptid).transform("median")
    birth = ((start - pd.to_datetime(visits["born"])).dt.days / YEAR).round(2)
    birth = birth.where(birth.between(*core.RANGES["AGE"]))
    for key, who in (
        ("AGE grows", ~spread["fixed"] & spread["grows"]),
        ("AGE contradicts", given.notna() & ~spread.any(axis=1)),
        ("AGE and birth", (age - birth).abs() > 1),
        ("AGE of birth", age.isna() & birth.notna()),
        ("no age", age.isna() & birth.isna()),
    ):
        note(said, key, ptid[who].unique())
    return visits.assign(AGE=age.fillna(birth), EXAMDATE_bl=start)


def keep(visits: pd.DataFrame, said: Said) -> pd.DataFrame:
    """Keep the visits with a value, a date and a sex; note those that ADNIMERGE did not have."""
    visits = visits[visits[[*VALUES]].notna().any(axis=1) | ~visits["single"]]
    for name in ("EXAMDATE", "PTGENDER"):
        note(said, f"no {name}", visits["visit"][visits[name].isna()])
        visits = visits.dropna(subset=name)
    added = visits[visits["single"]] if not visits["single"].all() else visits[:0]
    for phase, which in added["visit"].groupby(added["COLPROT"].fillna("no phase")):
        note(said, "added visits", which, phase=phase)
    if visits.empty:
        raise refusal("no visit")
    return visits.sort_values(["RID", "EXAMDATE"], ignore_index=True).astype({"RID": "Int64"})
