"""The stand-in cross-encoder: what it learns from, and whom it may serve."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "core"))
from people import people

from memoir_book import standins, weights
from memoir_core import retrieval, text
from memoir_core.captions import caption_rows
from memoir_core.cohort import DataLeakageError

TABLE = people()
ROWS = caption_rows(TABLE)
Z = text.unit_rows(np.random.default_rng(1).normal(size=(40, 512)))
TRAIN = TABLE.loc[TABLE["split"] != "test", "case"].to_numpy()
INDEX = retrieval.build_index(Z[TRAIN], TRAIN, TABLE)


def test_pairs_are_of_train_cases_and_graded_by_their_records():
    pairs = standins.training_pairs(INDEX, ROWS, TABLE, Z, 60, 10, seed=0)
    of = {row[key]: row for row in ROWS for key in ("caption", "caption_blind")}
    queries, answers = [of[text] for text in pairs["query"]], [of[text] for text in pairs["answer"]]
    assert {row["split"] for row in queries} == {"train"}
    assert {row["split"] for row in answers} == {"train", "val"}
    wanted = retrieval.relevance(
        TABLE, np.array([row["case"] for row in queries]), np.array([r["case"] for r in answers])
    )
    assert np.allclose(pairs["label"], wanted) and pairs["label"].nunique() > 5
    near, _ = retrieval.search(INDEX, Z, 11)
    for own, other in zip(queries, answers, strict=True):
        assert other["case"] in near[own["case"]][1:]  # a neighbour, never the case itself
    assert all(row["caption"] == text for row, text in zip(answers, pairs["answer"], strict=True))


def test_every_second_query_is_blind():
    pairs = standins.training_pairs(INDEX, ROWS, TABLE, Z, 60, 10, seed=0)
    blind = {row["caption_blind"] for row in ROWS}
    assert [text in blind for text in pairs["query"]] == [i % 2 == 0 for i in range(len(pairs))]


def test_a_test_case_among_the_neighbours_is_leakage():
    relabelled = TABLE.assign(split="train")
    leaky = retrieval.build_index(Z, np.arange(40), relabelled)
    with pytest.raises(DataLeakageError, match="training pairs"):
        standins.training_pairs(leaky, ROWS, TABLE, Z, 200, 10, seed=0)


@pytest.fixture
def without_hub(monkeypatch):
    """The published cross-encoder cannot be had."""
    real = weights.find

    def find(name, path="", **options):
        if name == "cross-encoder" and not path:
            return replace(real("minilm"), stand_in_for=name)
        return real(name, path, **options)

    monkeypatch.setattr(weights, "find", find)


OPTIONS = {"pairs": 32, "top_k": 10, "seed": 0, "device": "cpu"}


def test_a_stand_in_serves_only_what_it_was_trained_for(tmp_path, without_hub, monkeypatch):
    trained = []

    class Model:
        def save_pretrained(self, folder, create_model_card):
            Path(folder).mkdir()
            (Path(folder) / "model.safetensors").write_bytes(b"weights")

    def train(base, table, seed, device):
        trained.append((len(table), seed))
        return Model()

    monkeypatch.setattr(standins, "train_reranker", train)
    monkeypatch.setattr(standins, "_load", lambda folder, device: folder)
    folder = tmp_path / "reranker"

    def get(captions=ROWS, table=TABLE, z=Z, **changes):
        before = len(trained)
        found, base, what = standins.get_reranker(
            folder, INDEX, captions, table, z, **OPTIONS | changes
        )
        assert found == folder and base.name == "minilm" and "stand-in" in what
        return len(trained) - before

    assert get() == 1 and get() == 0
    other = [row | {"caption": row["caption"] + " "} for row in ROWS]
    unused = TABLE.assign(MOCA=1.0)  # no pair changes, but it is another cohort
    for change in (
        *({"seed": 1}, {"pairs": 33}, {"top_k": 9}, {"captions": other}, {"table": unused}),
        {"z": np.roll(Z, 1, axis=1)},
    ):
        assert get(**change) == 1, change
        assert get(**change) == 0 and get() == 1
    monkeypatch.setattr(standins, "LAYERS", 3)
    assert get() == 1
    (folder / "model.safetensors").write_bytes(b"weightz")  # one flipped bit
    assert get() == 1


def test_a_stand_in_is_trained_and_ranks(tmp_path, without_hub):
    arguments = tmp_path / "reranker", INDEX, ROWS, TABLE, Z
    model, _, what = standins.get_reranker(*arguments, **OPTIONS)
    assert "not the published model" in what and "4 layers" in what
    assert len(model[0].model.bert.encoder.layer) == standins.LAYERS
    documents = [row["caption"] for row in ROWS[1:4]]
    ranked = model.rank(ROWS[0]["caption"], documents, top_k=2)
    again = standins.get_reranker(*arguments, **OPTIONS)[0].rank(ROWS[0]["caption"], documents)
    assert ranked == again[:2]


def test_a_folder_of_your_own_must_hold_a_model(tmp_path, without_hub):
    with pytest.raises(FileNotFoundError, match="holds no complete model"):
        standins.get_reranker(tmp_path / "r", INDEX, ROWS, TABLE, Z, **OPTIONS, path=str(tmp_path))
