"""Properties that must hold for any input, tried on many."""

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from memoir_book.reading import read_answer
from memoir_core import cohort, tables
from memoir_core.config import DX
from memoir_core.losses import IGNORE, PairwiseInfoNCE, focal_loss, info_nce
from memoir_core.model import masking_gate

bounded = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# --- the tables -------------------------------------------------------------------------

score = st.one_of(st.sampled_from(["", "-4", "NA"]), st.floats(0, 18).map(lambda x: f"{x:.1f}"))
visit = st.fixed_dictionaries(
    {
        "DX": st.sampled_from([*tables.SPELLINGS, "", "-4"]),
        "VISCODE": st.integers(0, 120).map(lambda m: f"m{m:02d}" if m else "bl"),
        "AGE": st.sampled_from(["70", "70.3", " 88 ", ""]),
        "PTGENDER": st.sampled_from(["Male", "Female"]),
        "APOE4": st.sampled_from(["0", "1", "2", "", "-4"]),
        "MMSE": score,
        "EXAMDATE": st.one_of(
            st.dates(date(2004, 1, 1), date(2030, 1, 1)).map(str),
            st.dates(date(2004, 1, 1), date(2030, 1, 1)).map(lambda d: f"{d:%m/%d/%Y}"),
        ),
    }
)


@bounded
@given(
    st.lists(visit, min_size=1, max_size=8, unique_by=lambda row: row["VISCODE"]),
    st.booleans(),
    st.booleans(),
)
def test_any_valid_table_is_read_in_full(tmp_path, rows, mark, quoted):
    """Whatever the spelling, no visit is lost and no value invented."""
    path = tmp_path / "ADNIMERGE.csv"
    full = [
        {**dict.fromkeys(tables.REQUIRED, ""), "RID": "7", "PTID": "002_S_0007", **row}
        for row in rows
    ]
    table = pd.DataFrame(full)
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + _csv(table, quoted))
    read = cohort.read_adnimerge(path)
    assert len(read) == len(rows)
    for given_row, found in zip(rows, read.to_dict("records"), strict=True):
        wanted = tables.SPELLINGS.get(given_row["DX"])
        assert found["DX"] == wanted or (wanted is None and pd.isna(found["DX"]))
        text = given_row["MMSE"]
        missing = text in ("", "-4", "NA")
        assert math.isnan(found["MMSE"]) if missing else found["MMSE"] == float(text)
        assert str(found["EXAMDATE"].year) in given_row["EXAMDATE"]


def _csv(table, quoted):
    return table.to_csv(index=False, quoting=1 if quoted else 0).encode()


@bounded
@given(st.text(max_size=12))
def test_a_diagnosis_is_known_or_named(value):
    found = tables.parse(pd.Series([value], name="DX"))[0]
    assert found in DX if value in tables.SPELLINGS else pd.isna(found)


# --- the split --------------------------------------------------------------------------


@bounded
@given(st.tuples(*[st.integers(0, 60)] * 3), st.integers(0, 1000), st.floats(0, 0.5))
def test_the_split_has_exact_sizes_for_any_counts(counts, seed, val):
    dx = pd.Series(np.repeat(DX, counts)).sample(frac=1, random_state=seed, ignore_index=True)
    parts = cohort.split(dx, seed, val)
    for name, n in zip(DX, counts, strict=True):
        part = pd.Series(parts)[(dx == name).to_numpy()]
        train = math.floor(0.8 * n)
        assert (part == "test").sum() == n - train
        assert (part == "val").sum() == round(val * train)
        assert part.isin(["train", "val", "test"]).all()
    assert np.array_equal(parts, cohort.split(dx, seed, val))


@bounded
@given(st.lists(st.sampled_from(["train", "val", "test"]), min_size=2, max_size=12), st.data())
def test_a_subject_on_two_sides_is_always_found(parts, data):
    n = len(parts)
    table = pd.DataFrame({"case": range(n), "PTID": range(n), "RID": range(n), "split": parts})
    table["t1_path"] = table["fa_path"] = [f"{i}.nii" for i in range(n)]
    cohort.check_split(table)
    a, b = data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
    column = data.draw(st.sampled_from(["PTID", "RID", "t1_path", "fa_path"]))
    table.loc[a, column] = table.loc[b, column]
    if parts[a] == parts[b]:
        cohort.check_split(table)
    else:
        with pytest.raises(cohort.DataLeakageError):
            cohort.check_split(table)


# --- the masking gate -------------------------------------------------------------------

masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12)


@bounded
@given(masks, st.integers(0, 2**31), st.tuples(*[st.floats(0, 1)] * 3))
def test_the_gate_never_empties_a_subject_and_never_invents(rows, seed, drop):
    present = torch.tensor(rows)
    rates = dict(zip(("t1", "fa", "clinical"), drop, strict=True))
    keep = masking_gate(present, torch.Generator().manual_seed(seed), rates)
    assert not (keep & ~present).any()
    assert torch.equal(keep.any(dim=1), present.any(dim=1))
    again = masking_gate(present, torch.Generator().manual_seed(seed), rates)
    assert torch.equal(keep, again)


# --- the losses -------------------------------------------------------------------------


def unit(n, seed, *more):
    noise = torch.randn(n, *more, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1)


@bounded
@given(st.integers(2, 12), st.integers(0, 1000), st.floats(0.5, 100))
def test_info_nce_is_symmetric_and_blind_to_order(n, seed, scale):
    a, b = unit(n, seed), unit(n, seed + 1)
    loss = info_nce(a, b, scale)
    assert torch.isfinite(loss) and loss >= -1e-6
    assert torch.allclose(loss, info_nce(b, a, scale), atol=1e-4)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss, info_nce(a[order], b[order], scale), atol=1e-4)


@bounded
@given(masks, st.integers(0, 1000))
def test_no_mask_makes_the_contrastive_loss_or_its_gradient_nan(rows, seed):
    present = torch.tensor(rows)
    z = unit(len(rows), seed, 3).requires_grad_()
    criterion = PairwiseInfoNCE()
    loss = criterion(z, present)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()
    assert torch.isfinite(criterion.log_scale.grad).all()
    assert not z.grad[~present].any()  # what is absent moves nothing
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss, criterion(z[order], present[order]), atol=1e-4)


@bounded
@given(
    st.lists(st.sampled_from([0, 1, 2, IGNORE]), min_size=1, max_size=12),
    st.integers(0, 1000),
    st.floats(0, 5),
    st.floats(0.1, 50),
)
@example([0, 1, 1, IGNORE, IGNORE, 0, 2, 2], 138, 0.0, 43.88042195420753)  # large, and equal
def test_the_focal_loss_is_at_most_cross_entropy_and_equal_at_gamma_0(labels, seed, gamma, spread):
    target = torch.tensor(labels)
    noise = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(len(labels), 3, generator=noise)).requires_grad_()
    loss = focal_loss(logits, target, gamma)
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0 and torch.isfinite(logits.grad).all()
    if (target != IGNORE).any():
        plain = F.cross_entropy(logits, target, ignore_index=IGNORE)
        assert loss <= plain * (1 + 1e-6) + 1e-5
        assert torch.allclose(focal_loss(logits, target, 0.0), plain, rtol=1e-5, atol=1e-6)


# --- the answers ------------------------------------------------------------------------

OPTIONS = ("CN", "MCI", "Dementia")
words = st.sampled_from(
    [*OPTIONS, "mild cognitive impairment", "cognitively normal", "CNS", "no", ".", "\n", "the"]
)


@bounded
@given(st.one_of(st.text(max_size=60), st.lists(words, max_size=8).map(" ".join)))
def test_an_answer_is_an_option_or_unparsed(text):
    found = read_answer(text, "diagnosis", OPTIONS)["parsed"]
    assert found in (*OPTIONS, "unparsed")
    named = {option.lower() for option in OPTIONS} & set(text.lower().split())
    if len(named) > 1 and len(text.splitlines()) == 1 and not {"no", "."} & set(text.split()):
        assert found == "unparsed", "two diagnoses are no answer"


@bounded
@given(st.sampled_from(OPTIONS), st.sampled_from(["{}", " {}.", "{}\nCN MCI", '"{}"', "**{}**"]))
def test_an_option_alone_is_understood(option, frame):
    assert read_answer(frame.format(option), "diagnosis", OPTIONS)["parsed"] == option
    assert read_answer(frame.format(option.lower()), "diagnosis", OPTIONS)["parsed"] == option
