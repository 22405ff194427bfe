"""The text encoder: corpus, masking, alignment, and what comes back from disk."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ideas import idea
from people import people
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from sentence_transformers.util import batch_to_device
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling

from memoir_book import weights
from memoir_core import config, retrieval, text
from memoir_core.captions import caption_rows
from synthetic_adni.sentences import synthetic_sentences

# What chapter 7 writes out
CHAPTER = {"np": np, "torch": torch, "text": text, "config": config, "Dense": Dense}
CHAPTER |= {"SentenceTransformer": SentenceTransformer, "Normalize": Normalize}
CHAPTER |= {"DataCollatorForLanguageModeling": DataCollatorForLanguageModeling}
CHAPTER |= {"batch_to_device": batch_to_device}
for _name in ("masked_batches", "new_text_encoder", "class_agreement"):
    CHAPTER = idea("07", f"def {_name}", **CHAPTER)
masked_batches, perplexity_on = CHAPTER["masked_batches"], CHAPTER["perplexity_on"]
new_text_encoder, class_agreement = CHAPTER["new_text_encoder"], CHAPTER["class_agreement"]


@pytest.fixture(scope="module")
def minilm():
    return weights.find("minilm").path


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return SentenceTransformer(str(minilm), device="cpu").tokenizer


def unit(n, seed=0):
    return text.unit_rows(np.random.default_rng(seed).normal(size=(n, 512)))


# --- the target -------------------------------------------------------------------------


def test_rows_of_unit_length():
    assert text.unit_rows(np.array([[3.0, 4.0], [0.0, -2.0]])).tolist() == [
        pytest.approx([0.6, 0.8]),
        [0.0, -1.0],
    ]
    with pytest.raises(ValueError, match="row 1"):
        text.unit_rows(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="row 0"):
        text.unit_rows(np.array([[np.nan, 0.0]]))


def test_the_fused_embedding_must_be_of_this_cohort(tmp_path):
    table = people(5)
    z = np.random.default_rng(0).normal(size=(5, 512))
    np.savez(tmp_path / "embeddings.npz", case=np.arange(5), z_fused=z)
    found = text.read_fused(tmp_path / "embeddings.npz", table)
    assert np.allclose(found[3], z[3] / np.linalg.norm(z[3]), atol=1e-6)
    with pytest.raises(ValueError, match="chapter 05"):
        text.read_fused(tmp_path / "embeddings.npz", table[::-1])
    np.savez(tmp_path / "embeddings.npz", case=np.arange(5), z_fused=z[:, :384])
    with pytest.raises(ValueError, match="width 512"):
        text.read_fused(tmp_path / "embeddings.npz", table)


# --- corpus and masking -----------------------------------------------------------------


def test_held_out_sentences_and_test_captions_are_never_trained_on():
    rows = caption_rows(people())
    drawn = [f"Sentence {i}." for i in range(30)]
    train, held_out = text.build_corpus(rows, drawn, held_out=10)
    assert held_out == drawn[20:] and train[:20] == drawn[:20]
    assert train[20:] == [row["caption"] for row in rows if row["split"] in ("train", "val")]
    for bad in (drawn[0], rows[0]["caption"], rows[4]["caption_blind"]):  # twice, or of the test
        with pytest.raises(ValueError, match="twice or is a caption"):
            text.build_corpus(rows, [*drawn, bad], 10)


def test_the_published_corpus_has_26889_sentences():
    parts = ["train"] * 1606 + ["val"] * 283 + ["test"] * 474
    rows = [{"caption": f"{i}", "caption_blind": f"b{i}", "split": p} for i, p in enumerate(parts)]
    train, held_out = text.build_corpus(rows, [f"s{i}" for i in range(25500)], 500)
    assert (len(train), len(held_out)) == (26889, 500)


def test_no_caption_is_cut(tokenizer):
    table = people(60).assign(VENTRICLES=100.0, FORNIX_FA=100.0, ADAS11=70.0, ADAS13=85.0)
    table = table.assign(APOE4=np.nan, MMSE=np.nan, MOCA=np.nan, CDRSB=np.nan, DX="MCI")
    for cohort in (table, table.assign(AGE=np.nan, PTGENDER=None, CDRSB=0.5)):
        longest = max(len(tokenizer(row["caption"]).input_ids) for row in caption_rows(cohort))
        assert longest <= text.MAX_LENGTH and 2 * longest <= retrieval.MAX_TOKENS


def test_15_percent_of_the_words_are_hidden(tokenizer):
    sentences = [row["caption"] for row in caption_rows(people(200))]
    batches = masked_batches(tokenizer, sentences, seed=0)
    words = hidden = masks = 0
    for batch in batches:
        special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
        gaps = batch["labels"] != -100
        masked = batch["input_ids"] == tokenizer.mask_token_id
        assert (gaps | ~masked).all()  # what is masked is asked for
        words += int((~special | masked).sum())
        hidden, masks = hidden + int(gaps.sum()), masks + int(masked.sum())
    assert hidden / words == pytest.approx(0.15, abs=0.01)
    assert masks / hidden == pytest.approx(0.8, abs=0.03)  # the rest is shown as it is, or wrong
    again = masked_batches(tokenizer, sentences, seed=0)
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(batches, again, strict=True))
    other = masked_batches(tokenizer, sentences, seed=1)
    assert not torch.equal(batches[0]["labels"], other[0]["labels"])


def test_perplexity_weighs_batches_by_their_gaps():
    class Model:
        device = torch.device("cpu")
        eval = staticmethod(lambda: None)

        def __call__(self, labels, loss):
            return SimpleNamespace(loss=loss)

    one = {"labels": torch.tensor([[-100, 7, -100, -100]]), "loss": torch.tensor(np.log(2.0))}
    three = {"labels": torch.tensor([[5, 7, 9, -100]]), "loss": torch.tensor(np.log(32.0))}
    assert perplexity_on([one, three], Model()) == pytest.approx(2 ** ((1 + 3 * 5) / 4))


def test_the_masked_head_has_the_loss_of_transformers(minilm, tokenizer):
    model = text.load_mlm(minilm, seed=0).eval()
    plain = BertForMaskedLM(model.config).eval()
    plain.load_state_dict(model.state_dict())
    (batch,) = masked_batches(tokenizer, synthetic_sentences(8, 0), seed=0)
    assert model(**batch).loss.item() == pytest.approx(plain(**batch).loss.item(), rel=1e-4)


def test_masked_training_lowers_perplexity_and_moves_head_and_encoder_apart(
    minilm, tokenizer, monkeypatch
):
    monkeypatch.setattr(text, "MLM_RATES", (0.0, 1e-3))
    model = text.load_mlm(minilm, seed=0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = synthetic_sentences(112, seed=0)
    batches = masked_batches(tokenizer, drawn[96:], seed=0)
    before = perplexity_on(batches, model)
    log = text.train_mlm(model, tokenizer, drawn[:96], epochs=1, seed=0)
    assert perplexity_on(batches, model) < before / 2
    assert list(log.columns) == ["step", "loss"] and log["step"].iloc[-1] == 6
    same = {name: torch.equal(value, start[name]) for name, value in model.state_dict().items()}
    assert all(kept for name, kept in same.items() if name.startswith("bert."))
    assert not same["cls.predictions.transform.dense.weight"]


def test_trainers_share_seed_and_device():
    options = text.trainer_options("cpu", 7)
    assert (options["seed"], options["data_seed"], options["use_cpu"]) == (7, 7, True)
    assert options["save_strategy"] == "no" and not options["dataloader_pin_memory"]
    assert not text.trainer_options("cuda", 7)["use_cpu"]


# --- alignment --------------------------------------------------------------------------


@pytest.fixture
def encoder(minilm):
    return new_text_encoder(minilm, "cpu", 0, text.load_mlm(minilm, seed=0))


WORDS = [f"{age} years, {sex}" for age in (55, 60, 66, 71, 78, 84) for sex in ("man", "woman")]
NONE = ([], unit(0))  # no validation part


def test_the_alignment_loss_is_that_of_open_clip(encoder):
    encoder.eval()
    z = unit(12)
    for scale in (1 / 0.07, 250.0):
        log_scale = torch.tensor(np.log(scale))
        with torch.no_grad():
            found = float(text.alignment_loss(encoder, WORDS, torch.from_numpy(z), log_scale))
        # open_clip: logits_per_image = scale * image @ text.T, its transpose for the texts, cross-
        # entropy of each with 0..n-1, their mean. The scale is clipped at 100, as in CLIP.
        logits = min(scale, 100) * z.astype(float) @ encoder.encode(WORDS).astype(float).T
        per_image = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        per_text = np.log(np.exp(logits).sum(0)) - np.diag(logits)
        assert found == pytest.approx((per_image.mean() + per_text.mean()) / 2, rel=1e-4)


def test_texts_find_their_subject_after_alignment(encoder, monkeypatch):
    monkeypatch.setattr(text, "ALIGN_BATCH", 6)
    z = unit(12)
    history = text.align(encoder, ([(w,) for w in WORDS], z), (WORDS, z), epochs=12, seed=0)
    assert list(history["epoch"]) == [*range(1, 13)] and not encoder.training
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    assert history["val_recall@10"].iloc[-1] == 1.0
    found = encoder.encode(WORDS)
    assert found.shape == (12, 512) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert ((found @ z.T).argmax(axis=1) == np.arange(12)).mean() > 0.8


@pytest.mark.parametrize("rates", [(1e-4, 0.0), (0.0, 1e-3)])
def test_only_the_top_layers_and_the_projection_learn(encoder, rates, monkeypatch):
    monkeypatch.setattr(text, "ALIGN_RATES", rates)
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    history = text.align(encoder, ([(w,) for w in WORDS], unit(12)), NONE, epochs=1, seed=0)
    assert history["val_recall@10"].isna().all()
    moved = {n for n, value in encoder.state_dict().items() if not torch.equal(value, start[n])}
    top = {n for n in start if ".layer.4." in n or ".layer.5." in n}
    projection = {n for n in start if "linear" in n}
    assert len(projection) == 2 and moved and moved <= (top if rates[0] else projection)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_every_epoch_reads_each_subject_once_in_one_of_its_wordings(encoder, monkeypatch):
    seen = []

    def loss(model, words, targets, log_scale):
        seen.append((list(words), targets.clone()))
        return log_scale * 1.0

    monkeypatch.setattr(text, "alignment_loss", loss)
    monkeypatch.setattr(text, "ALIGN_BATCH", 4)
    z = unit(10)
    wordings = [(f"{i} own", f"{i} blind") for i in range(10)]
    text.align(encoder, (wordings, z), NONE, epochs=4, seed=0)
    assert [len(words) for words, _ in seen] == [4, 4, 2] * 4
    epochs = [[w for words, _ in seen[i : i + 3] for w in words] for i in (0, 3, 6, 9)]
    assert all({int(w.split()[0]) for w in epoch} == set(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # another order each time
    assert {w.split()[1] for epoch in epochs for w in epoch} == {"own", "blind"}
    for words, targets in seen:
        assert np.array_equal(targets.numpy(), z[[int(w.split()[0]) for w in words]])
    with pytest.raises(ValueError, match="10 texts for 9 embeddings"):
        text.align(encoder, (wordings, z[:9]), NONE, epochs=1, seed=0)


def test_an_encoder_begins_with_the_masked_model(minilm, encoder):
    mlm = text.load_mlm(minilm, seed=0)
    mlm.bert.encoder.layer[0].output.dense.bias.data += 1
    adapted = new_text_encoder(minilm, "cpu", 0, mlm)
    bias = [e[0].auto_model.encoder.layer[0].output.dense.bias for e in (encoder, adapted)]
    assert torch.allclose(bias[0] + 1, bias[1])
    assert torch.equal(encoder[-2].linear.weight, adapted[-2].linear.weight)
    assert encoder.max_seq_length == text.MAX_LENGTH


def test_the_encoder_comes_back_from_one_folder(tmp_path, encoder):
    folder = tmp_path / "text_encoder"
    encoder.save(str(folder), create_model_card=False)  # as chapter 7 does
    again = SentenceTransformer(str(folder), device="cpu")
    assert np.array_equal(again.encode(WORDS), encoder.encode(WORDS))
    stored = "".join(p.read_text() for p in folder.rglob("*config*.json"))
    assert "/" not in stored.replace("2_Normalize", "")  # no folder of this machine


def test_class_agreement_by_hand():
    # On a line, by angle: each case's five nearest others are all others; itself never counts.
    angle = np.radians([0, 10, 20, 30, 40, 50])
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    dx = np.array(["CN", "CN", "CN", "CN", "MCI", "MCI"])
    each = 4 * [3 / 5] + 2 * [1 / 5]  # of a case's five others, how many are of its class
    assert class_agreement(z, z, dx) == pytest.approx(each)
    far = np.concatenate([z, -z])  # the opposite side is never among the nearest five
    both = class_agreement(far, far, np.append(dx, ["Dementia"] * 6))
    assert both == pytest.approx([*each, *6 * [1.0]])
