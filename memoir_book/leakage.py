"""Experiments that put a leak in on purpose and measure what it does to the result.

A leak in the records shows in a logistic regression; a leak in the network's inputs in a new
clinical branch on frozen image embeddings; a leak in the text in a language model's loss.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from memoir_core import text
from memoir_core.cohort import build_cohort, read_adnimerge, read_images
from memoir_core.config import SCORES
from memoir_core.data import MemoirDataset, Scaler
from memoir_core.inference import encode, predict
from memoir_core.losses import multitask_loss
from memoir_core.metrics import bootstrap, composite, hits, majority, sex_hits, task_metrics
from memoir_core.model import Memoir, masking_gate
from memoir_core.volumes import Volumes
from synthetic_adni.render import SEX_EFFECT, SEX_NOISE
from synthetic_adni.write import write_tables

from .artefacts import Run, set_seed

RECORD = [*SCORES, "APOE4"]
ERRORS = ("mae", "loss")  # metrics of which less is better
TARGETS = ("dx3", "dx2", "sex", "age", "cdrsb")


# --- one row per experiment -------------------------------------------------------------


def experiment(
    name: str,
    honest: dict[str, float],
    leaky: dict[str, float],
    n: int,
    metric: str = "balanced accuracy",
) -> dict:
    """One row of leakage.csv from two intervals {'value', 'low', 'high'} of separate samples.

    `gain` is by how much the leak flatters: the rise of an accuracy, the fall of an error.
    Its interval stays empty, because the two are not of the same subjects; see `paired`.
    """
    row: dict[str, Any] = {"experiment": name, "metric": metric}
    for kind, found in (("honest", honest), ("leaky", leaky)):
        row[kind] = found["value"]
        row[f"{kind}_low"], row[f"{kind}_high"] = found["low"], found["high"]
    gain = (row["leaky"] - row["honest"]) * _sign(metric)
    return row | {"gain": gain, "gain_low": np.nan, "gain_high": np.nan, "n": n}


def paired(
    name: str,
    honest: np.ndarray,
    leaky: np.ndarray,
    groups: np.ndarray | None,
    samples: int,
    seed: int,
    metric: str = "balanced accuracy",
) -> dict:
    """One row of leakage.csv from values of the same subjects, honest and with the leak.

    Subjects are redrawn within their group, the same ones on both sides, so that the interval
    of `gain` is that of a difference within subjects.

    Parameters
    ----------
    honest, leaky : (n,) hits or errors, NaN where a subject has no such value.
    groups : (n,) true class of each subject, for a mean of class means; None: a plain mean.
    metric : 'balanced accuracy', 'accuracy', or one that begins with 'mae' or 'loss'.
    """
    both = np.stack([honest, leaky], axis=1).astype(float)  # (n, 2)
    known = ~np.isnan(both).any(axis=1)
    both, groups = both[known], groups[known] if groups is not None else None
    if not len(both):
        raise ValueError(f"experiment {name!r} has no subject with both values")
    first, second = (bootstrap(both[:, i], groups, samples, seed) for i in (0, 1))
    gain = bootstrap((both[:, 1] - both[:, 0]) * _sign(metric), groups, samples, seed)
    row = experiment(name, first, second, len(both), metric)
    return row | {"gain_low": gain["low"], "gain_high": gain["high"]}


def shown(rows: Sequence[dict], label: str) -> pd.DataFrame:
    """Rows of leakage.csv as a table for the page, with `label` as the name of its columns."""
    columns = ["metric", "honest", "leaky", "gain", "gain_low", "gain_high", "n"]
    table = pd.DataFrame(rows).set_index("experiment")[columns]
    return table.round(3).rename_axis(columns=label)


def _sign(metric: str) -> int:
    return -1 if metric.startswith(ERRORS) else 1


# --- records ----------------------------------------------------------------------------


def regression_hits(cohort: pd.DataFrame, features: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Three-class diagnosis by a logistic regression on record fields.

    Fitted on train and validation part, tested on test. 'DX' among the features is allowed:
    it shows what a target among the inputs looks like.

    Returns
    -------
    hits, truth : (n_test,) bool, and the true class.
    """
    inputs = cohort[[name for name in features if name != "DX"]].astype(float)
    if "DX" in features:
        inputs = inputs.join(pd.get_dummies(cohort["DX"], dtype=float))
    train = (cohort["split"] != "test").to_numpy()
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )
    model.fit(inputs[train], cohort["DX"][train])
    truth = cohort["DX"][~train].to_numpy()
    return model.predict(inputs[~train]) == truth, truth


def score_regression(
    cohort: pd.DataFrame, features: Sequence[str], samples: int, seed: int
) -> dict[str, float]:
    """Balanced accuracy of `regression_hits`: value, low, high."""
    return bootstrap(*regression_hits(cohort, features), samples, seed)


def visit_split(visits: pd.DataFrame, by_subject: bool, seed: int, repeats: int = 5) -> np.ndarray:
    """Balanced accuracies when visits are split at random, or subjects are.

    A forest on scores, age, education and APOE4 can recognise a subject it has met at
    another visit; a split of visits lets it.

    Parameters
    ----------
    visits : from `cohort.read_adnimerge`: several rows per PTID.

    Returns
    -------
    (repeats,) one balanced accuracy per random split.
    """
    table = visits[visits["DX"].notna()]
    features = [c for c in (*RECORD, "AGE", "PTEDUCAT") if c in table]
    splitter: Any = (GroupShuffleSplit if by_subject else ShuffleSplit)(
        repeats, test_size=0.2, random_state=seed
    )
    scores = []
    for fit, check in splitter.split(table, groups=table["PTID"] if by_subject else None):
        forest = make_pipeline(
            SimpleImputer(strategy="median"),
            RandomForestClassifier(200, min_samples_leaf=1, random_state=seed, n_jobs=2),
        )
        forest.fit(table.iloc[fit][features], table.iloc[fit]["DX"])
        predicted = forest.predict(table.iloc[check][features])
        scores.append(balanced_accuracy_score(table.iloc[check]["DX"], predicted))
    return np.array(scores)


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, smallest and largest of repeated splits, in the form of an interval."""
    return {"value": values.mean(), "low": values.min(), "high": values.max()}


def at_visit(cohort: pd.DataFrame, visits: pd.DataFrame, step: int) -> pd.DataFrame:
    """Take each subject's scores from another visit than the scan's.

    Parameters
    ----------
    cohort : one row per subject, at the visit of the scan; from `load_cohort(private=True)`,
        since visits are found by PTID.
    visits : from `cohort.read_adnimerge`: all visits of all subjects.
    step : -1 for the visit before the scan's, 1 for the one after it.

    Returns
    -------
    The subjects that have such a visit with a score, with its scores in place of their own.
    """
    ordered = visits.sort_values(["PTID", "EXAMDATE"])
    other = ordered.groupby("PTID")[list(SCORES)].shift(-step)
    other[["PTID", "VISCODE"]] = ordered[["PTID", "VISCODE"]]
    other = other.dropna(subset=list(SCORES), how="all")
    kept = cohort.drop(columns=list(SCORES)).merge(other, on=["PTID", "VISCODE"])
    return kept.sort_values("case", ignore_index=True)


def visit_experiments(
    cohort: pd.DataFrame, visits: pd.DataFrame, samples: int, seed: int
) -> list[dict]:
    """Compare scores of the scan's visit with those of the visit before and the one after.

    *Honest* is what was known before: the visit before against the diagnostic visit itself,
    and the diagnostic visit against the one after. Both sides of a row fit and test the same
    subjects. A row is left out where fewer than two classes have subjects in both parts.
    """
    rows = []
    for step, name in ((-1, "scores of the diagnostic visit"), (1, "scores of the next visit")):
        other = at_visit(cohort, visits, step)
        same = cohort[cohort["case"].isin(other["case"])].reset_index(drop=True)
        test = same["split"] == "test"
        if min(same["DX"][test].nunique(), same["DX"][~test].nunique()) < 2:
            continue
        earlier, later = (other, same) if step < 0 else (same, other)
        honest, truth = regression_hits(earlier, RECORD)
        leaky, _ = regression_hits(later, RECORD)
        rows.append(paired(name, honest, leaky, truth, samples, seed))
    return rows


def drift_curve(drifts: Sequence[float], subjects: int, samples: int, seed: int) -> pd.DataFrame:
    """How well the scores alone tell the classes apart, by the synthetic cohort's mechanism.

    Writes synthetic tables (no images) per drift, the standard deviation between the severity
    that was diagnosed and the one at which the scores were taken, and fits a logistic
    regression. At 0, scores and diagnosis are of the same moment.

    Returns
    -------
    Columns drift, value, low, high, n.
    """
    rows = []
    for drift in drifts:
        with tempfile.TemporaryDirectory() as folder:
            write_tables(Path(folder), subjects, 0.4, drift)
            visits = read_adnimerge(Path(folder) / "ADNIMERGE.csv")
            cohort, _ = build_cohort(visits, read_images(Path(folder) / "images.csv"), None, seed)
        found = score_regression(cohort, RECORD, samples, seed)
        rows.append({"drift": drift, **found, "n": int((cohort["split"] == "test").sum())})
    return pd.DataFrame(rows)


# --- the network ------------------------------------------------------------------------


def predict_hidden(
    model: Memoir,
    cohort: pd.DataFrame,
    volumes: Volumes,
    scaler: Scaler,
    hide: tuple[str, ...],
) -> pd.DataFrame:
    """Predict the test part with the trained network, some scores hidden; see `predict`."""
    data = MemoirDataset(cohort, volumes, scaler, "test", hide)
    return predict(model, *encode(model, data), cohort.loc[data.rows], scaler)


@dataclass(frozen=True)
class Retrained:
    """A clinical branch with fusion and heads, trained anew.

    history : epoch, train_loss, composite, dx3_balanced_accuracy (validation) and
        test_dx3_balanced_accuracy.
    tests : predictions of the test part after each epoch; see `inference.predict`.
    """

    history: pd.DataFrame
    tests: list[pd.DataFrame]

    def chosen(self, by: str = "composite") -> pd.DataFrame:
        """Test predictions of the epoch at which a column of the history is largest."""
        return self.tests[int(self.history[by].to_numpy().argmax())]


def retrain_clinical(
    run: Run,
    cohort: pd.DataFrame,
    volumes: Volumes,
    scaler: Scaler,
    *,
    hide: tuple[str, ...] = (),
    extra: np.ndarray | None = None,
    epochs: int = 15,
    batch_size: int = 16,
    lr: float = 1e-3,
) -> Retrained:
    """Train clinical encoder, fusion and heads anew on the frozen image embeddings of chapter 5.

    Seconds instead of hours, on the CPU, because no volume is touched. Modalities are dropped
    at random as in stage 2. Note what stays: the image encoders were trained beside a clinical
    branch that saw CDR-SB, and for a CDR-SB head.

    Parameters
    ----------
    hide : scores that the branch must not see, in training nor in the test.
    extra : (n, k) further inputs of every case, such as the diagnosis as three columns.

    Returns
    -------
    Retrained, all epochs; the same for the same seed.
    """
    with np.load(run.path("stage2", "embeddings.npz"), allow_pickle=False) as stored:
        frozen, present = torch.from_numpy(stored["z"]).float(), torch.from_numpy(stored["present"])
    data = MemoirDataset(cohort, volumes, scaler, "all", hide)
    inputs = [torch.from_numpy(data.scores * data.known), torch.from_numpy(data.known)]
    more = torch.zeros(len(cohort), 0) if extra is None else torch.tensor(extra).float()
    apoe = torch.from_numpy(data.apoe)
    present = present.clone()
    present[:, 2] = torch.from_numpy(data.present[:, 2]) | (more.shape[1] > 0)
    targets = {name: torch.tensor(getattr(data, name)) for name in TARGETS}

    set_seed(run.seed)
    model = Memoir()
    model.t1, model.fa = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    if more.shape[1]:
        first: Any = model.clinical.mlp[0]
        model.clinical.mlp[0] = nn.Linear(first.in_features + more.shape[1], first.out_features)

    def embeddings(rows: Tensor) -> Tensor:  # (B,) -> (B, 3, D)
        z = frozen[rows].clone()
        x = [*(part[rows] for part in inputs), model.clinical.apoe(apoe[rows]), more[rows]]
        z[:, 2] = F.normalize(model.clinical.mlp(torch.cat(x, dim=1)), dim=-1)
        return z

    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    noise = torch.Generator().manual_seed(run.seed)
    part = {k: torch.from_numpy(np.flatnonzero(cohort["split"] == k)) for k in _PARTS}
    history, tests = [], []
    for epoch in range(1, epochs + 1):
        model.train()
        losses = []
        order = part["train"][torch.randperm(len(part["train"]), generator=noise)]
        for rows in order.split(batch_size):
            keep = masking_gate(present[rows], noise)
            out = model.fuse(embeddings(rows), present[rows] & keep)
            loss = multitask_loss(out, {k: v[rows] for k, v in targets.items()})["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        tables = {}
        for name in ("val", "test"):
            rows = part[name]
            with torch.no_grad():
                z = embeddings(rows)
            tables[name] = predict(model, z, present[rows], cohort.loc[rows.numpy()], scaler)
        val, test = task_metrics(tables["val"]), tables["test"]
        history.append(
            {
                "epoch": epoch,
                "train_loss": float(np.mean(losses)),
                "composite": composite(val, scaler),
                "dx3_balanced_accuracy": val["dx3"]["balanced_accuracy"],
                "test_dx3_balanced_accuracy": float(
                    pd.Series(hits(test)).groupby(test["DX"]).mean().mean()
                ),
            }
        )
        tests.append(test)
    return Retrained(pd.DataFrame(history), tests)


_PARTS = ("train", "val", "test")


def one_hot(values: pd.Series) -> np.ndarray:
    """A column of classes as columns of 0 and 1: (n, classes) float."""
    return pd.get_dummies(values, dtype=float).to_numpy()


def compare_diagnosis(
    name: str, honest: pd.DataFrame, leaky: pd.DataFrame, samples: int, seed: int
) -> dict:
    """A row for two tables of predictions of the same cases, by three-class diagnosis."""
    return paired(name, hits(honest), hits(leaky), honest["DX"].to_numpy(), samples, seed)


def compare_sex(
    name: str, honest: pd.DataFrame, leaky: pd.DataFrame, samples: int, seed: int
) -> dict:
    """A row for two tables of predictions of the same cases, by sex.

    Give it `tests[-1]`: the composite that chooses an epoch does not look at the sex.
    """
    truth = honest["PTGENDER"].to_numpy()
    return paired(name, sex_hits(honest), sex_hits(leaky), truth, samples, seed)


def compare_cdrsb(
    name: str, honest: pd.DataFrame, leaky: pd.DataFrame, samples: int, seed: int
) -> dict:
    """A row for two tables of predictions of the same cases, by the error in CDR-SB points."""
    before, after = ((t["CDRSB"] - t["CDRSB_pred"]).abs().to_numpy() for t in (honest, leaky))
    return paired(name, before, after, None, samples, seed, "mae, CDR-SB points")


def checkpoint_choice(history: pd.DataFrame, chosen_by: str = "composite") -> pd.DataFrame:
    """Test result of the epoch that validation chose, and of the epoch that the test chose.

    Returns
    -------
    Two rows: chosen on, epoch, dx3 balanced accuracy on test.
    """
    column = "test_dx3_balanced_accuracy"
    places = [int(history[by].to_numpy().argmax()) for by in (chosen_by, column)]
    chosen = history.iloc[places][["epoch", column]].reset_index(drop=True)
    chosen.insert(0, "chosen on", ["validation", "test"])
    return chosen


# --- text -------------------------------------------------------------------------------


def caption_experiments(
    retrieved: list[dict], cohort: pd.DataFrame, scores: pd.DataFrame, samples: int, seed: int
) -> list[dict]:
    """What a query's own caption is worth: blind against own caption.

    Parameters
    ----------
    retrieved : rows of retrieval.jsonl (chapter 8); every test case under both protocols.
    scores : llm_scores.csv (chapter 9).

    Returns
    -------
    Rows for the majority diagnosis of the five retrieved cases (the same queries, paired), and
    for each language model's free answers (its own intervals).
    """
    dx = cohort.set_index("case")["DX"]
    votes: dict[str, dict[int, bool]] = {"blind": {}, "own_caption": {}}
    for row in retrieved:
        vote = majority([dx[case] for case in row["reranked"]])
        votes[row["protocol"]][row["case"]] = vote == dx[row["case"]]
    cases = sorted(votes["blind"])
    honest, leaky = (np.array([votes[p][case] for case in cases]) for p in votes)
    truth = dx[cases].to_numpy()
    rows = [paired("own caption reranks, majority of five", honest, leaky, truth, samples, seed)]
    asked = scores[scores["metric"] == "diagnosis_accuracy"].set_index(["llm", "protocol"])
    for llm in dict.fromkeys(scores["llm"]):
        if llm == "majority of five" or any((llm, p) not in asked.index for p in votes):
            continue
        blind, own = (asked.loc[(llm, protocol)].to_dict() for protocol in votes)
        name = f"own caption reranks, {_short(llm)}"
        rows.append(experiment(name, blind, own, int(own["n"]), "accuracy"))
    return rows


def _short(llm: str) -> str:
    """A model's name for the axis of a figure: 'Gemma 3 270M base, NF4 (stand-in)'."""
    name = llm.split(" (")[0]
    return f"{name} (stand-in)" if "stand-in" in llm else name


def hidden_words(
    encoder: SentenceTransformer, captions: Sequence[str], seeds: Sequence[int]
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Hide 15 % of the words of each caption, once per seed, and read the encoder at the gaps.

    Returns
    -------
    states (m, 384), words (m,) token numbers, owners (m,): which caption each gap is of.
    """
    bert, tokenizer = text.bert_of(encoder).eval(), encoder.tokenizer
    device = next(bert.parameters()).device
    lengths = [len(row["input_ids"]) for row in text.tokenise(tokenizer, captions)]
    order = np.argsort(lengths, kind="stable")  # as `masked_batches` sorts them
    states, words, owners = [], [], []
    for seed in seeds:
        done = 0
        for batch in text.masked_batches(tokenizer, captions, seed):
            gaps = batch["labels"] != -100  # (captions, tokens)
            with torch.no_grad():
                read = bert(
                    batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
                )
            states.append(read.last_hidden_state.cpu()[gaps])
            words.append(batch["labels"][gaps])
            owners.append(order[done + gaps.nonzero()[:, 0].numpy()])
            done += len(gaps)
    return torch.cat(states).float(), torch.cat(words), np.concatenate(owners)


def memorised_captions(
    encoder: SentenceTransformer, captions: list[dict], samples: int, seed: int, count: int = 24
) -> list[dict]:
    """What a model of hidden words remembers of the captions that it was trained on.

    Chapter 7's encoder stays frozen; a linear head learns to name hidden words from its states,
    in seconds. Twice, with as many captions: train captions only, and half of them replaced by
    test captions. Both are then asked for other words of the same captions, hidden with other
    seeds.

    Parameters
    ----------
    captions : rows of captions.jsonl.
    count : test captions to use, at most.

    Returns
    -------
    Two rows with metric 'loss, hidden words': seen against unseen captions of one head, and
    the same test captions before two heads.
    """
    rng = np.random.default_rng([seed, 12])
    train = [row["caption"] for row in captions if row["split"] != "test"]
    test = [row["caption"] for row in captions if row["split"] == "test"]
    count = min(count, len(test), len(train) // 2)
    train = [train[i] for i in rng.permutation(len(train))[: 2 * count]]
    test = [test[i] for i in rng.permutation(len(test))[:count]]
    texts = [*test, *train]  # 0 to count: test
    states, words, owners = hidden_words(encoder, texts, range(seed, seed + 5))
    asked, answers, askees = hidden_words(encoder, texts, range(seed + 5, seed + 7))
    known, numbers = torch.cat([words, answers]).unique(return_inverse=True)
    words, answers = numbers[: len(words)], numbers[len(words) :]

    def losses(read: Sequence[int]) -> np.ndarray:  # caption numbers -> (texts,)
        rows = torch.from_numpy(np.isin(owners, read))
        head = _fit_head(states[rows], words[rows], len(known), seed)
        with torch.no_grad():
            each = F.cross_entropy(head(asked), answers, reduction="none").numpy()
        asks = np.bincount(askees, minlength=len(texts))
        total = np.bincount(askees, weights=each, minlength=len(texts))
        return np.divide(total, asks, out=np.full(len(texts), np.nan), where=asks > 0)

    honest = losses(range(count, 3 * count))
    leaky = losses(range(2 * count))  # test captions in place of the last train captions
    metric = "loss, hidden words"
    seen = honest[count:][~np.isnan(honest[count:])]
    unseen = honest[:count][~np.isnan(honest[:count])]
    means = [bootstrap(found, None, samples, seed) for found in (unseen, seen)]
    named = "test captions in the language model's text"
    return [
        experiment("captions seen in training", means[0], means[1], len(unseen), metric),
        paired(named, honest[:count], leaky[:count], None, samples, seed, metric),
    ]


def _fit_head(states: Tensor, words: Tensor, width: int, seed: int, steps: int = 150) -> nn.Linear:
    """Fit a linear map from states (m, 384) to `width` words, all gaps in every step."""
    set_seed(seed)
    head = nn.Linear(states.shape[1], width)
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=0.1)
    for _ in range(steps):
        loss = F.cross_entropy(head(states), words)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


def aligned_captions(
    encoder: SentenceTransformer,
    captions: list[dict],
    z_fused: np.ndarray,
    samples: int,
    seed: int,
) -> dict:
    """What happens when the test captions help to align text and images.

    A linear map from sentence vectors to the fused embedding, by ridge regression: once from
    train captions, once with as many of them replaced as there are test captions. A hit is a
    test caption whose own subject comes first among all test subjects.

    Parameters
    ----------
    captions, z_fused : of every case, in the same order; (n, 512) unit vectors.
    """
    from sklearn.linear_model import Ridge

    body = SentenceTransformer(modules=list(encoder)[:-2])  # without the map of chapter 7
    hidden = body.encode([r["caption"] for r in captions], show_progress_bar=False)
    is_test = np.array([row["split"] == "test" for row in captions])
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    right = []
    for rows in (train, np.concatenate([train[len(test) :], test])):
        guess = Ridge(alpha=0.01).fit(hidden[rows], z_fused[rows]).predict(hidden[test])
        nearest = (text.unit_rows(guess) @ z_fused[test].T).argmax(axis=1)
        right.append(nearest == np.arange(len(test)))
    name = "test captions in the alignment"
    metric = "accuracy, own subject first"
    return paired(name, right[0], right[1], None, samples, seed, metric)


# --- limits -----------------------------------------------------------------------------


def age_against_constant(
    table: pd.DataFrame, cohort: pd.DataFrame, samples: int, seed: int
) -> dict:
    """The network's age error beside that of predicting the train part's mean age for all.

    In the form of `paired`: 'honest' is the constant, 'leaky' the network, and `gain` by how
    many years the network's error is smaller.
    """
    mean = cohort.loc[cohort["split"] == "train", "AGE"].mean()
    constant = (table["AGE"] - mean).abs().to_numpy()
    network = (table["AGE"] - table["AGE_pred"]).abs().to_numpy()
    return paired("age", constant, network, None, samples, seed, "mae, years")


def head_size_and_shape(volumes: np.ndarray, voxel_mm: float) -> pd.DataFrame:
    """Measure what of a head's size and shape is left in registered T1 volumes.

    Parameters
    ----------
    volumes : (n, X, Y, Z), zero outside the brain; row i is case i.

    Returns
    -------
    One row per volume: litres (volume inside the brain's outline), and width, length, height:
    the standard deviation of its voxels' positions along x, y and z, in mm.
    """
    rows = []
    for volume in volumes:
        inside = np.asarray(volume) != 0
        row = {"litres": inside.sum() * voxel_mm**3 / 1e6}
        for axis, name in enumerate(("width", "length", "height")):
            weight = inside.sum(axis=tuple(a for a in range(3) if a != axis))
            at = np.arange(len(weight)) * voxel_mm
            mean = np.average(at, weights=weight)
            row[name] = float(np.sqrt(np.average((at - mean) ** 2, weights=weight)))
        rows.append(row)
    return pd.DataFrame(rows)


def coarse_voxels(volumes: np.ndarray, step: int) -> np.ndarray:
    """Average blocks of step x step x step voxels: (n, X, Y, Z) -> (n, blocks) float32."""
    rows = []
    for volume in volumes:
        x, y, z = (size // step * step for size in volume.shape)
        blocks = np.asarray(volume[:x, :y, :z], np.float32)
        blocks = blocks.reshape(x // step, step, y // step, step, z // step, step)
        rows.append(blocks.mean(axis=(1, 3, 5)).ravel())
    return np.stack(rows)


def sex_from(
    features: np.ndarray, cohort: pd.DataFrame, samples: int, seed: int
) -> dict[str, float]:
    """Balanced accuracy of a logistic regression for the sex: value, low, high, n.

    Fitted on train and validation part, tested on test. More than 20 features are first
    reduced to 20 principal components.
    """
    train = (cohort["split"] != "test").to_numpy()
    steps: list[Any] = [StandardScaler()]
    if features.shape[1] > 20:
        steps.append(PCA(min(20, int(train.sum()) - 1), random_state=seed))
    model = make_pipeline(*steps, LogisticRegression(C=0.1, max_iter=2000))
    sex = cohort["PTGENDER"].to_numpy()
    model.fit(features[train], sex[train])
    right = model.predict(features[~train]) == sex[~train]
    return bootstrap(right, sex[~train], samples, seed) | {"n": int((~train).sum())}


def sex_head(table: pd.DataFrame, samples: int, seed: int) -> dict[str, float]:
    """Balanced accuracy of the network's sex head in a table of predictions, like `sex_from`."""
    truth = table["PTGENDER"].to_numpy()
    return bootstrap(sex_hits(table), truth, samples, seed) | {"n": len(table)}


def best_synthetic_sex() -> float:
    """Best balanced accuracy that the synthetic head shape allows, if it were seen exactly.

    The generator draws one number per subject, normal about -SEX_EFFECT (women) or
    +SEX_EFFECT (men) with deviation SEX_NOISE; the best threshold is 0.
    """
    from scipy.stats import norm

    return float(norm.cdf(SEX_EFFECT / SEX_NOISE))
