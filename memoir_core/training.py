"""Both training stages. Published: project page, section 4.

Stage 1 pulls a subject's modality embeddings together (InfoNCE); stage 2 trains fusion and
heads, and the encoders gently with them. One loop serves both: read `_train` downward.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from . import files
from .config import MODALITIES, SCORES
from .data import RECORD, FaTogether, MemoirDataset, Scaler, vary, workers
from .inference import encode, load_weights, predict, save_weights
from .losses import PairwiseInfoNCE, gather, info_nce, multitask_loss
from .metrics import composite, recall_at, spread, task_metrics
from .model import HEADS, Memoir, masking_gate
from .precision import choose_precision
from .volumes import Volumes

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
NORM_SUBJECTS, NORM_FA = 48, 16  # train subjects, and ones with FA, whom norms are measured on
WARM_UP = 0.1  # share of the steps in which the learning rate rises, before the cosine
CODE = "config volumes data model losses precision inference metrics training"  # decide the result


@dataclass(frozen=True)
class Settings:
    """All that a training is told. The loop knows nothing else, so this is its identity."""

    stage: int
    epochs: int
    lr_backbone: float
    lr_heads: float
    batch_size: int
    drop: dict[str, float]
    hide: tuple[str, ...]
    seed: int
    device: str
    start: str = "random"  # or a file of weights

    def __post_init__(self) -> None:
        odds = self.drop.values()
        rules = {
            "epochs: at least 1": self.epochs >= 1,
            "batch_size: at least 2": self.batch_size >= 2,
            "learning rates: above 0": min(self.lr_backbone, self.lr_heads) > 0,
            f"drop: one probability for each of {', '.join(MODALITIES)}": (
                set(self.drop) == set(MODALITIES) and 0 <= min(odds) <= max(odds) <= 1
            ),
            f"hide: scores among {', '.join(SCORES)}": set(self.hide) <= set(SCORES),
            f"seed: from 0 to {2**32 - 1}": 0 <= self.seed < 2**32,
        }
        if broken := [rule for rule, kept in rules.items() if not kept]:
            raise ValueError(f"{broken[0]}; this training was told {asdict(self)}")


def train_stage1(
    cohort: pd.DataFrame, volumes: Volumes, folder: Path, *, epochs: int, lr: float,
    batch_size: int, drop: dict[str, float], seed: int, device: str,
) -> pd.DataFrame:  # fmt: skip
    """Contrastive pre-training of the three encoders; the test part is not touched.

    cohort, volumes : from `load_cohort` and `load_volumes`, in the same order.
    drop : how often the masking gate hides each modality, see `masking_gate`.

    Writes model.safetensors, history.csv and settings.json into `folder`. With equal settings,
    subjects, volumes and code, a finished training is returned at once and an interrupted one
    goes on after its last whole epoch; any other begins anew, in an emptied folder.

    Returns a row per epoch: train_loss, val_loss; of each pair ('t1_fa', ...) val_loss, recall@5
    and the scale 1/temperature; of each modality the mean cosine and rank of `metrics.spread` on
    the validation part; NaN where nobody has it. ValueError: a setting is out of range.
    RuntimeError: the loss is no number, or the GPU's memory does not suffice.
    """
    how = Settings(1, epochs, lr, lr, batch_size, drop, (), seed, device)
    return _train(how, cohort, volumes, Path(folder))


def train_stage2(
    cohort: pd.DataFrame,
    volumes: Volumes,
    folder: Path,
    *,
    start: Path | None,
    epochs: int,
    lr_backbone: float,
    lr_heads: float,
    batch_size: int,
    drop: dict[str, float],
    hide: tuple[str, ...] = (),
    seed: int,
    device: str,
) -> pd.DataFrame:
    """Multi-task fine-tuning of everything, the encoders with a learning rate of their own.

    start : stage 1's model.safetensors; None starts from random weights, for comparison.
    hide : scores that the clinical branch must not see.

    Writes best.safetensors (best composite on the validation part), last.safetensors,
    scaler.json, history.csv and settings.json. Returns a row per epoch: train loss, validation
    metrics of each head ('dx3_auc', ...) and the composite. Otherwise as `train_stage1`.
    """
    rest = batch_size, drop, tuple(hide), seed, device, str(start or "random")
    return _train(Settings(2, epochs, lr_backbone, lr_heads, *rest), cohort, volumes, Path(folder))


def _train(how: Settings, cohort: pd.DataFrame, volumes: Volumes, folder: Path) -> pd.DataFrame:
    """Train one stage: the loop that both share."""
    used = cohort.loc[cohort["split"] != "test", list(RECORD)].reset_index(drop=True)
    code = files.code_digest(*(sys.modules[f"{__package__}.{name}"] for name in CODE.split()))
    identity = {**asdict(how), "subjects": files.digest(used), "code": code}
    identity["volumes"] = volumes.digest
    if how.start != "random":
        identity["start"] = files.checksum(Path(how.start))
    # Another trainer in this process may have left its device and precision behind.
    AcceleratorState._reset_state(reset_partial_state=True)
    with PartialState(cpu=how.device == "cpu").main_process_first():
        if (folder / files.SETTINGS).exists() and files.is_finished(folder, identity):
            print(f"{folder.name}: already trained with these settings")
            return pd.read_csv(folder / "history.csv", float_precision="round_trip")
        state = files.newest_state(folder, identity) or {"history": []}

    # Subjects, network, loss
    scaler = Scaler.fit(cohort, volumes)
    train = MemoirDataset(cohort, volumes, scaler, "train", how.hide)
    val = MemoirDataset(cohort, volumes, scaler, "val", how.hide)
    set_seed(_seeds(how, 0)[0])
    model, criterion = Memoir(), PairwiseInfoNCE()
    if how.start != "random":
        load_weights(model, Path(how.start))

    def loss_of(out: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        if how.stage == 1:
            return criterion(gather(out["embeddings"]), gather(out["present"]))
        predicted, wanted = ({name: gather(x[name]) for name in HEADS} for x in (out, batch))
        return multitask_loss(predicted, wanted)["total"]

    # Device, precision, optimizer, schedule
    accelerator = Accelerator(
        cpu=how.device == "cpu",
        mixed_precision=choose_precision(how.device, model, criterion, loss_of, train),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    model.to(accelerator.device)
    criterion.to(accelerator.device)
    encoders, rest = (model.t1, model.fa, model.clinical), (model.fusion, model.heads, criterion)
    groups = parameter_groups(encoders, how.lr_backbone) + parameter_groups(rest, how.lr_heads)
    optimizer = torch.optim.AdamW(groups, fused=True)
    learned = [p for group in groups for p in group["params"]]
    size = max(2, how.batch_size // accelerator.num_processes)
    order, noise = torch.Generator(), torch.Generator()
    has_fa = torch.from_numpy(train.present[:, 1] & (how.stage == 1))  # stage 2: any order
    drawn = FaTogether(has_fa, how.batch_size, order)
    loader = DataLoader(train, size, sampler=drawn, drop_last=True, **workers(how.device))
    if not len(loader):
        raise RuntimeError(f"{len(train)} train subjects do not fill a batch of {size}")
    any_order = np.random.default_rng(how.seed).permutation(len(train))
    shown = [*any_order[:NORM_SUBJECTS], *any_order[train.present[any_order, 1]][:NORM_FA]]
    fresh = DataLoader(Subset(train, shown), how.batch_size, **workers(how.device))
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = len(loader) * how.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer, "schedule": schedule}
    parts |= {"scaler": accelerator.scaler} if accelerator.scaler else {}
    history: list[dict] = state.pop("history")
    for name, kept in state.items():  # nothing, unless a training was interrupted
        parts[name].load_state_dict(kept)

    for epoch in range(len(history) + 1, how.epochs + 1):
        started, title = time.time(), f"{folder.name} epoch {epoch}/{how.epochs}"
        torch_seed, order_seed, noise_seed = _seeds(how, epoch)
        set_seed(torch_seed)
        order.manual_seed(order_seed)
        noise.manual_seed(noise_seed)
        row, losses = {"epoch": epoch, "lr": optimizer.param_groups[-1]["lr"]}, []
        wrapped.train()
        bar = tqdm(loader, title, mininterval=5, disable=not accelerator.is_local_main_process)
        for batch in bar:
            try:
                keep = masking_gate(batch["present"], noise, how.drop)
                varied = vary(batch, noise)
                with accelerator.autocast():
                    loss = loss_of(wrapped(varied, keep), varied)
                optimizer.zero_grad()
                accelerator.backward(loss)
            except torch.OutOfMemoryError as error:
                sizes = f"now {how.batch_size}; try {max(2, how.batch_size // 2)}"
                mend = f"lower batch_size ({sizes}) or use device='cpu'"
                raise RuntimeError(f"the GPU ran out of memory in {title}: {mend}") from error
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RuntimeError(f"the loss is {losses[-1]} in {title}: lower the learning rate")
            accelerator.clip_grad_norm_(learned, CLIP_NORM)
            optimizer.step()
            schedule.step()
            bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        row["train_loss"] = sum(losses) / len(losses)
        # The norms' running statistics are of varied volumes, and some steps old: take them anew.
        update_bn(({k: v.to(accelerator.device) for k, v in b.items()} for b in fresh), model)
        row |= _validate(how, model, criterion, val, scaler)
        row["seconds"] = round(time.time() - started, 2)
        history.append(row)
        if accelerator.is_main_process:
            if how.stage == 2 and all(row["composite"] > r["composite"] for r in history[:-1]):
                save_weights(model, folder / "best.safetensors")
            with files.atomic_path(folder / "history.csv") as temporary:
                pd.DataFrame(history).to_csv(temporary, index=False)
            if epoch < how.epochs:  # after the last, there is nothing to go on from
                now = {name: part.state_dict() for name, part in parts.items()}
                files.save_state(folder, epoch, identity, now | {"history": history})

    if accelerator.is_main_process:
        if how.stage == 2:
            files.write_json(folder / "scaler.json", asdict(scaler))
        save_weights(model, folder / f"{'model' if how.stage == 1 else 'last'}.safetensors")
        files.finish(folder, identity)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return pd.DataFrame(history)


def parameter_groups(modules: Sequence[nn.Module], lr: float) -> list[dict]:
    """Groups of one learning rate: weights decay; biases, norms and scales do not (open_clip)."""
    own = [p for module in modules for p in module.parameters()]
    weights, rest = [p for p in own if p.ndim > 1], [p for p in own if p.ndim < 2]
    decayed = {"params": weights, "lr": lr, "weight_decay": WEIGHT_DECAY}
    return [decayed, {"params": rest, "lr": lr, "weight_decay": 0.0}]


def _seeds(how: Settings, epoch: int) -> list[int]:
    """Three seeds of an epoch (0: the first weights), so that a repeated epoch draws the same."""
    return np.random.SeedSequence((how.seed, how.stage, epoch)).generate_state(3).tolist()


def _rate(step: int, steps: int) -> float:
    """Rise linearly, then fall as a half cosine, as a factor of the full learning rate."""
    rise = max(1, int(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _validate(
    how: Settings, model: Memoir, criterion: PairwiseInfoNCE, val: MemoirDataset, scaler: Scaler
) -> dict[str, float]:
    z, present = encode(model, val, how.batch_size)
    if how.stage == 2:
        found = task_metrics(predict(model, z, present, val.subjects, scaler))
        row = {f"{task}_{k}": v for task, values in found.items() for k, v in values.items()}
        return row | {"composite": composite(found, scaler)}
    scales = criterion.log_scale.detach().exp().clamp(max=100)
    with torch.no_grad():
        loss = criterion(z.to(scales.device), present.to(scales.device))
    row = {"val_loss": float(loss)}
    for (a, b), scale in zip(combinations(range(len(MODALITIES)), 2), scales, strict=True):
        pair, both = f"{MODALITIES[a]}_{MODALITIES[b]}", present[:, a] & present[:, b]
        one, other = z[both, a], z[both, b]
        loss = info_nce(one, other, scale.cpu()) if len(one) > 1 else math.nan  # as in training
        row[f"val_loss_{pair}"] = float(loss)
        row[f"val_recall@5_{pair}"] = recall_at(one, other, (5,))["recall@5"]
        row[f"scale_{pair}"] = float(scale)
    for column, name in enumerate(MODALITIES):
        apart = spread(z[present[:, column], column])
        row |= {f"cosine_{name}": apart["mean_cosine"], f"rank_{name}": apart["effective_rank"]}
    return row
