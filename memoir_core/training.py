"""Both training stages. Published: project page, section 4.

Stage 1 pulls a subject's modality embeddings together (InfoNCE); stage 2 trains fusion
and heads, and the encoders gently with them. Accelerate takes care of device, precision
and several processes:

    accelerate launch --num_processes 2 -m memoir_core.training stage1 --profile paper --run big
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from memoir_book.artefacts import (
    Run,
    atomic_path,
    set_seed,
    start_chapter,
    unseal,
    verify,
    write_json,
)

from .cohort import load_cohort
from .data import MemoirDataset, Scaler
from .inference import encode, load_weights, predict
from .losses import PairwiseInfoNCE, multitask_loss
from .metrics import composite, recall_at, task_metrics
from .model import DROP, HEADS, Memoir, masking_gate
from .precision import checked_half_type
from .volumes import Volumes, augment, load_volumes

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
WARM_UP = 0.1  # share of the steps in which the learning rate rises, before the cosine


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and where the last good weights are."""


# --- the two stages ---------------------------------------------------------------------


def train_stage1(
    run: Run,
    cohort: pd.DataFrame,
    volumes: Volumes,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    drop: dict[str, float] = DROP,
) -> pd.DataFrame:
    """Contrastive pre-training of the three encoders.

    Writes stage1/model.safetensors, history.csv and scaler.json.

    Parameters
    ----------
    epochs, lr, batch_size : None takes the profile's.
    drop : how often the masking gate hides each modality, see `masking_gate`.

    Returns
    -------
    history : one row per epoch: train and validation loss, the scale 1/temperature, and how
        often a T1 finds its subject's clinical embedding among the validation subjects.
    """
    scaler = Scaler.fit(cohort)
    set_seed(run.seed)
    model = Memoir()
    criterion = PairwiseInfoNCE()

    def loss(out: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return criterion(gather(out["embeddings"]), gather(out["present"]))

    def validate(model: Memoir, data: dict[str, MemoirDataset]) -> dict[str, float]:
        z, present = encode(model, data["val"], run.profile.batch_size)
        with torch.no_grad():
            value = float(criterion.cpu()(z, present))
        both = present[:, 0] & present[:, 2]
        ranks = recall_at(z[both, 0], z[both, 2], (1, 5))
        scale = float(criterion.log_scale.detach().exp().clamp(max=100))
        return {"val_loss": value, "scale": scale, **{f"val_{k}": v for k, v in ranks.items()}}

    history = _fit(
        run,
        "stage1",
        model,
        criterion,
        loss,
        validate,
        lambda: [{"params": [*model.parameters(), *criterion.parameters()]}],
        [lr or run.profile.lr_stage1],
        _datasets(cohort, volumes, scaler),
        run.profile.stage1_epochs if epochs is None else epochs,
        batch_size or run.profile.batch_size,
        drop,
        best_by="",
    )
    write_json(run.path("stage1", "scaler.json"), asdict(scaler))
    return history


def train_stage2(
    run: Run,
    cohort: pd.DataFrame,
    volumes: Volumes,
    epochs: int | None = None,
    pretrained: bool = True,
    hide: tuple[str, ...] = (),
    folder: str = "stage2",
    batch_size: int | None = None,
    drop: dict[str, float] = DROP,
) -> pd.DataFrame:
    """Multi-task fine-tuning of everything, encoders with a smaller learning rate.

    Writes <folder>/best.safetensors (best composite on the validation part),
    last.safetensors, history.csv and scaler.json.

    Parameters
    ----------
    pretrained : start from stage 1; False starts from random weights, for comparison.
    hide : scores that the clinical branch must not see.
    folder : where in the run folder to write.
    batch_size : None takes the profile's.
    drop : how often the masking gate hides each modality, see `masking_gate`.

    Returns
    -------
    history : one row per epoch with losses, validation metrics per head and the composite.
        `test_dx3_balanced_accuracy` is recorded for chapter 11 and decides nothing.
    """
    scaler = Scaler.fit(cohort)
    set_seed(run.seed + 1)
    model = Memoir()
    if pretrained:
        load_weights(model, run.path("stage1", "model.safetensors"))
    data = _datasets(cohort, volumes, scaler, hide)

    def validate(model: Memoir, data: dict[str, MemoirDataset]) -> dict[str, float]:
        row: dict[str, float] = {}
        for part in ("val", "test"):
            z, present = encode(model, data[part], run.profile.batch_size)
            table = predict(model, z, present, cohort.loc[data[part].rows], scaler)
            metrics = task_metrics(table)
            if part == "test":
                row["test_dx3_balanced_accuracy"] = metrics["dx3"]["balanced_accuracy"]
                continue
            row |= {f"{task}_{k}": v for task, found in metrics.items() for k, v in found.items()}
            row["composite"] = composite(metrics, scaler)
        return row

    def groups() -> list[dict]:
        backbone = [p for part in (model.t1, model.fa, model.clinical) for p in part.parameters()]
        rest = [p for part in (model.fusion, model.heads) for p in part.parameters()]
        return [{"params": backbone}, {"params": rest}]

    def loss(out: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        predicted, wanted = ({name: gather(x[name]) for name in HEADS} for x in (out, batch))
        return multitask_loss(predicted, wanted)["total"]

    history = _fit(
        run,
        folder,
        model,
        None,
        loss,
        validate,
        groups,
        [run.profile.lr_backbone, run.profile.lr_heads],
        data,
        run.profile.stage2_epochs if epochs is None else epochs,
        batch_size or run.profile.batch_size,
        drop,
        best_by="composite",
    )
    write_json(run.path(folder, "scaler.json"), asdict(scaler))
    return history


def _datasets(
    cohort: pd.DataFrame, volumes: Volumes, scaler: Scaler, hide: tuple[str, ...] = ()
) -> dict[str, MemoirDataset]:
    return {
        part: MemoirDataset(cohort, volumes, scaler, part, hide)
        for part in ("train", "val", "test")
    }


def gather(x: Tensor) -> Tensor:
    """Concatenate a tensor over all processes, with gradients; one process: the tensor itself.

    Absent modalities are gathered with the mask and dropped afterwards, because every
    process must send a tensor of the same shape.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    if x.dtype == torch.bool:
        return torch.cat(all_gather(x.to(torch.uint8))).bool()
    return torch.cat(all_gather(x))


# --- the loop that both share -----------------------------------------------------------


def _fit(
    run: Run,
    stage: str,
    model: Memoir,
    criterion: nn.Module | None,
    loss: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor],
    validate: Callable[[Memoir, dict[str, MemoirDataset]], dict[str, float]],
    groups: Callable[[], list[dict]],
    rates: list[float],
    data: dict[str, MemoirDataset],
    epochs: int,
    batch_size: int,
    drop: dict[str, float],
    best_by: str,
) -> pd.DataFrame:
    if epochs < 1 or batch_size < 2:
        raise ValueError(f"epochs={epochs} must be at least 1, batch_size={batch_size} at least 2")
    wrong = [name for name, share in drop.items() if not 0 <= share <= 1]
    if wrong or set(drop) != set(DROP):
        raise ValueError(f"drop={drop}: a probability from 0 to 1 for each of {', '.join(DROP)}")
    with out_of_memory_hint(f"{stage}, precision check", batch_size):
        precision = choose_precision(run.device, model, criterion, loss, data["train"])
    # Another trainer in this process may have left its precision behind, as a shared state.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=run.device == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    model.to(accelerator.device).arrange()
    if criterion is not None:
        criterion.to(accelerator.device)
    chosen = [group | {"lr": rate} for group, rate in zip(groups(), rates, strict=True)]
    optimizer = torch.optim.AdamW(chosen, weight_decay=WEIGHT_DECAY, fused=True)
    per_process = max(2, batch_size // accelerator.num_processes)
    order = torch.Generator()
    loader = DataLoader(data["train"], per_process, shuffle=True, drop_last=True, generator=order)
    if not len(loader):
        raise TrainingError(f"{len(data['train'])} train subjects do not fill a batch")
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = len(loader) * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))

    folder = run.path(stage)
    settings = {"epochs": epochs, "rates": rates, "batch": batch_size, "seed": run.seed}
    settings["drop"] = dict(drop)
    state = _resume(folder, settings, accelerator.is_main_process)
    history: list[dict] = []
    if state is not None:
        load_weights(model, folder / f"epoch{state['epoch']:03d}.safetensors")
        optimizer.load_state_dict(state["optimizer"])
        schedule.last_epoch = state["step"]  # the rates themselves are the optimizer's
        if criterion is not None:
            criterion.load_state_dict(state["criterion"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        history = state["history"]
        print(f"{stage}: resumed after epoch {state['epoch']}")
    board = _tensorboard(folder) if accelerator.is_main_process else None
    for epoch in range(len(history) + 1, epochs + 1):
        # All randomness of an epoch follows from (seed, epoch): a resumed run draws the same.
        set_seed(run.seed * 100_003 + epoch)
        order.manual_seed(run.seed * 100_003 + epoch)
        noise = torch.Generator().manual_seed(run.seed * 100_003 + epoch * 101)
        started = time.time()
        row: dict[str, float] = {"epoch": epoch, "lr": optimizer.param_groups[-1]["lr"]}
        title = f"{stage} epoch {epoch}/{epochs}"
        with out_of_memory_hint(title, batch_size):
            row["train_loss"] = _epoch(
                title,
                accelerator, wrapped, criterion, loss, optimizer, schedule, loader, noise, folder,
                drop,
            )  # fmt: skip
        model.eval()
        row |= validate(model, data)
        if criterion is not None:
            criterion.to(accelerator.device)
        row["seconds"] = round(time.time() - started, 2)
        history.append(row)
        if board is not None:
            for name, value in row.items():
                board.add_scalar(f"{stage}/{name}", value, epoch)
            board.flush()
        if accelerator.is_main_process:
            if best_by and all(row[best_by] > earlier[best_by] for earlier in history[:-1]):
                save_weights(model, folder / "best.safetensors")
            if epoch < epochs:  # after the last, there is nothing to resume
                state = {
                    "epoch": epoch,
                    "settings": settings,
                    "optimizer": optimizer.state_dict(),
                    "step": schedule.last_epoch,
                    "criterion": criterion.state_dict() if criterion is not None else {},
                    "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
                    "history": history,
                }
                _save_epoch(folder, model, state)
            with atomic_path(folder / "history.csv") as temporary:
                pd.DataFrame(history).to_csv(temporary, index=False)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        final = "last.safetensors" if best_by else "model.safetensors"
        save_weights(model, folder / final)
        for leftover in (*folder.glob("epoch*.safetensors"), *folder.glob("epoch*.pt")):
            unseal(leftover)
            leftover.unlink()
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return pd.DataFrame(history)


@contextmanager
def out_of_memory_hint(where: str, batch_size: int) -> Iterator[None]:
    """Say what to lower when the GPU's memory does not suffice.

    Raises
    ------
    TrainingError
        Instead of torch's OutOfMemoryError, with the parameter and a value to try.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU ran out of memory in {where}: lower the notebook's parameter batch_size "
            f"(now {batch_size}; try {max(2, batch_size // 2)}), end other programs that use "
            "this GPU, or set device to 'cpu'. The epochs so far are kept, but training with "
            "another batch_size begins anew"
        ) from error


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer where MEMOIR_TENSORBOARD=1 asks for one, else None."""
    if os.environ.get("MEMOIR_TENSORBOARD", "") != "1":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "MEMOIR_TENSORBOARD=1 needs the package: run `pip install tensorboard`"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def choose_precision(
    device: str,
    model: Memoir,
    criterion: nn.Module | None,
    loss: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor],
    data: MemoirDataset,
    rows: int = 8,
) -> str:
    """Compare half precision with fp32 on a few train subjects; see `checked_half_type`."""
    batch = default_collate([data[i] for i in range(min(rows, len(data)))])
    batch = {name: value.to(device) for name, value in batch.items()}
    trial = copy.deepcopy(model).to(device).arrange()  # statistics of the model stay as they are
    if criterion is not None:
        criterion.to(device)
    trial.train()
    for module in trial.modules():
        if isinstance(module, nn.Dropout | nn.MultiheadAttention):
            module.eval()
    return checked_half_type(device, trial, lambda: loss(trial(batch), batch))


def _epoch(
    title: str,
    accelerator: Accelerator,
    model: nn.Module,
    criterion: nn.Module | None,
    loss_of: Callable,
    optimizer: Any,
    schedule: Any,
    loader: Any,
    noise: torch.Generator,
    folder: Path,
    drop: dict[str, float],
) -> float:
    """One pass over the train part; return the mean loss."""
    model.train()
    total, volumes, started = 0.0, 0, time.time()
    bar = tqdm(loader, desc=title, mininterval=5, disable=not accelerator.is_local_main_process)
    for batch in bar:
        keep = masking_gate(batch["present"], noise, drop)
        for name in ("t1", "fa"):
            batch[name] = augment(batch[name], noise)
        with accelerator.autocast():
            loss = loss_of(model(batch, keep), batch)
        value = loss.item()
        if not math.isfinite(value):
            good = sorted(folder.glob("epoch*.safetensors"))
            where = f"The last good weights are in {good[-1]}" if good else "No epoch had finished"
            raise TrainingError(
                f"the loss became {value} in {title}: lower the learning rate. {where}"
            )
        optimizer.zero_grad()
        accelerator.backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        accelerator.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        schedule.step()
        total += value
        volumes += int(keep[:, :2].sum())
        rate = optimizer.param_groups[-1]["lr"]
        speed = volumes / (time.time() - started)
        bar.set_postfix_str(f"loss {value:.3f}, lr {rate:.1e}, {speed:.0f} volumes/s", False)
    return total / len(loader)


def _rate(step: int, steps: int) -> float:
    """Rise linearly, then fall as a half cosine, as a factor of the full learning rate."""
    rise = max(1, int(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


# --- checkpoints ------------------------------------------------------------------------


def save_weights(model: nn.Module, path: Path) -> None:
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with atomic_path(path, durable=False) as temporary:
        save_file(weights, temporary)


def _save_epoch(folder: Path, model: nn.Module, state: dict) -> None:
    """Store an epoch. The state is written last: without it, an epoch has not happened."""
    name = f"epoch{state['epoch']:03d}"
    save_weights(model, folder / f"{name}.safetensors")
    memory = io.BytesIO()  # torch's own writer would hide that the disk is full
    torch.save(state, memory)
    with atomic_path(folder / f"{name}.pt", durable=False) as temporary:
        temporary.write_bytes(memory.getbuffer())
    for old in (*folder.glob("epoch*.safetensors"), *folder.glob("epoch*.pt")):
        if old.stem != name:
            unseal(old)
            old.unlink()


def _resume(folder: Path, settings: dict, main: bool) -> dict | None:
    """Load the newest whole epoch of an unfinished training with the same settings."""
    for path in sorted(folder.glob("epoch*.pt"), reverse=True):
        if not path.with_suffix(".safetensors").exists():
            continue
        verify(path, f"delete {folder} and train again")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] == settings:
            return state
        if main:
            print(f"{path.name} was begun with {state['settings']}: starting anew")
    return None


def main() -> None:
    from memoir_book import chapters

    parser = argparse.ArgumentParser(
        description="Train one stage outside a notebook, for `accelerate launch`. Chapters 1 and 2 "
        "must have run."
    )
    parser.add_argument("stage", choices=("stage1", "stage2"))
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--run", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, default=None)
    args = parser.parse_args()
    chapter = "04" if args.stage == "stage1" else "05"
    run = start_chapter(
        chapter,
        profile=args.profile,
        run=args.run,
        data_dir=args.data,
        seed=args.seed,
        device=args.device,
    )
    train = train_stage1 if args.stage == "stage1" else train_stage2
    print(
        train(
            run,
            load_cohort(run.path("cohort.parquet")),
            load_volumes(run.path("volumes.json"), chapters.cache_dir()),
            args.epochs,
        )
        .round(3)
        .to_string()
    )


if __name__ == "__main__":
    main()
