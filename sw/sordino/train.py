"""A trainer for any module: penalties of sparse layers, an accuracy budget, exact resumption."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sordino_hw.errors import InputError
from sordino_hw.files import replacing

from .nn.base import density, penalty

__all__ = ["Epoch", "History", "Hook", "accuracy", "fit", "progress_bar"]

Data = tuple[Tensor, Tensor] | Dataset
Transform = Callable[[Tensor, torch.Generator], Tensor]


class Hook(Protocol):
    """What `fit` calls before each epoch, and saves with its checkpoint."""

    def __call__(self, model: nn.Module, epoch: int) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on, of types that `torch.load(weights_only=True)` reads."""
        ...

    def load_state_dict(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Sets `model` and itself to a state that was saved."""
        ...


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `loss` and `penalty` are means over the epoch's images; `score` is on validation data."""

    epoch: int
    loss: float
    penalty: float
    score: float
    density: float
    """Non-zero part of all activations that a method may replace, on the validation data; NaN if there are none."""
    events: float
    """Non-zero activations for one validation input, mean."""


@dataclass
class History:
    """The epochs of a training, and which one the model was left at (-1: as it was before)."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = -1


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, batch_size: int = 256) -> float:
    """Top-1 accuracy, 0 to 1, of a classifier with logits (N, classes) on (inputs, labels)."""
    hits = total = 0
    training = model.training
    model.eval()
    for x, y in DataLoader(_dataset(data), batch_size):
        hits += int((model(x).argmax(1) == y).sum())
        total += len(y)
    model.train(training)
    return hits / total


def fit(
    model: nn.Module,
    train_data: Data,
    validation: Data,
    epochs: int,
    *,
    lr: float = 1e-3,
    batch_size: int = 32,
    weight_decay: float = 1e-4,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    score: Callable[[nn.Module, Data], float] = accuracy,
    augment: Transform | None = None,
    penalty_weight: float = 1.0,
    budget: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    before_epoch: Hook | None = None,
    progress: bool | Progress = True,
    label: str = "train",
) -> History:
    """Trains `model` in place with AdamW and a cosine schedule; the loss is `loss(model(x), y)` plus its penalties.

    Parameters
    ----------
    train_data, validation : (inputs, targets) tensors, or a `Dataset` of such pairs
    score : higher is better; called as `score(model, validation)` after each epoch
    augment : `augment(x, generator) -> x` on each training batch
    penalty_weight : factor of the penalties; 0 for recovery, training a sparse network on its task alone
    budget : None keeps the last epoch. A number is the least `score` that is acceptable: of the epochs that reach it,
        the one with the fewest non-zero activations is kept; if none does, the model is left as it was
    patience : with a budget, stop after so many epochs in a row below it
    checkpoint : file that the whole state is written to after each epoch; if it is there, training resumes from it and
        ends exactly as it would have without the interruption. It is read with `weights_only=True`
    before_epoch : called as `before_epoch(model, epoch)` before each epoch, such as `sordino.CostWeights`; what its
        `state_dict()` gives is in the checkpoint
    progress : whether to show a bar, or the `rich` progress display to add one to

    Deterministic: the same arguments and seed give the same weights on the same machine; torch's global generator is
    left as it was. Raises `InputError` for empty data, a loss that is not finite, or a checkpoint of another training.
    """
    data = _dataset(train_data)
    if not len(data) or not len(_dataset(validation)):
        raise InputError("fit: the training and the validation data must not be empty")
    if epochs < 1:
        raise InputError(f"fit: epochs must be at least 1, not {epochs!r}")
    settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "seed": seed}
    settings |= {"penalty_weight": penalty_weight, "budget": budget}
    settings["before_epoch"] = None if before_epoch is None else type(before_epoch).__name__
    shuffle, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    loader = DataLoader(data, batch_size, shuffle=True, generator=shuffle)
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(loader))
    history = History()
    kept = _snapshot(model)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if checkpoint is not None and Path(checkpoint).exists():
            state = _load(checkpoint, settings)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])
            shuffle.set_state(state["shuffle"])
            noise.set_state(state["noise"])
            torch.set_rng_state(state["torch"])
            kept = state["kept"]
            history = History([Epoch(**e) for e in state["history"]], state["best"])
            if before_epoch is not None:
                before_epoch.load_state_dict(model, state["hook"])
        with _bar(progress) as bar:
            task = bar.add_task(label, total=epochs, completed=len(history.epochs), note="")
            for epoch in range(len(history.epochs), epochs):
                if _exhausted(history, budget, patience):
                    break
                if before_epoch is not None:
                    before_epoch(model, epoch)
                mean_loss, mean_penalty = _epoch(model, loader, optimiser, schedule, loss, augment, noise, penalty_weight)
                record = _measure(model, validation, score, epoch, mean_loss, mean_penalty)
                history.epochs.append(record)
                if budget is None or (record.score >= budget and _sparser(record, history)):
                    history.best, kept = epoch, _snapshot(model)
                if checkpoint is not None:
                    state = {
                        "settings": settings,
                        "model": model.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "schedule": schedule.state_dict(),
                        "shuffle": shuffle.get_state(),
                        "noise": noise.get_state(),
                        "torch": torch.get_rng_state(),
                        "kept": kept,
                        "hook": None if before_epoch is None else before_epoch.state_dict(),
                        "best": history.best,
                        "history": [dataclasses.asdict(e) for e in history.epochs],
                    }
                    _save(state, checkpoint)
                bar.update(task, advance=1, note=f"score {record.score:.4f} density {record.density:.3f}")
    model.load_state_dict(kept)
    model.eval()
    return history


def _epoch(model, loader, optimiser, schedule, loss, augment, noise, weight) -> tuple[float, float]:
    model.train()
    total = total_penalty = count = 0.0
    for x, y in loader:
        if augment is not None:
            x = augment(x, noise)
        optimiser.zero_grad()
        value = loss(model(x), y)
        extra = penalty(model)
        if extra is not None:
            total_penalty += float(extra.detach()) * len(x)
            value = value + weight * extra
        if not torch.isfinite(value):
            raise InputError(
                f"fit: the loss became {float(value.detach())}. Check the data for NaNs, or lower the learning rate or the penalty's strength."
            )
        value.backward()
        optimiser.step()
        schedule.step()
        total += float(value.detach()) * len(x)
        count += len(x)
    return total / count, total_penalty / count


@torch.no_grad()
def _measure(model, validation, score, epoch: int, loss: float, cost: float) -> Epoch:
    value = score(model, validation)
    data = _dataset(validation)
    x = data.tensors[0] if isinstance(data, TensorDataset) else torch.stack([data[i][0] for i in range(len(data))])
    counts = density(model, x)
    nonzero, total = sum(n for n, _ in counts.values()), sum(n for _, n in counts.values())
    return Epoch(epoch, loss, cost, value, nonzero / total if total else float("nan"), nonzero / len(x))


def _sparser(record: Epoch, history: History) -> bool:
    return history.best < 0 or not record.events > history.epochs[history.best].events


def _exhausted(history: History, budget: float | None, patience: int | None) -> bool:
    if budget is None or patience is None or len(history.epochs) < patience:
        return False
    return all(e.score < budget for e in history.epochs[-patience:])


def _dataset(data: Data) -> Any:
    """A `Dataset` with a length."""
    return data if isinstance(data, Dataset) else TensorDataset(*data)


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def progress_bar(**options: Any) -> Progress:
    """A progress display whose tasks have a field `note`; `options` are those of `rich.progress.Progress`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, **options)


def _bar(progress: bool | Progress):
    return _Borrowed(progress) if isinstance(progress, Progress) else progress_bar(disable=not progress)


class _Borrowed:
    """A progress display that somebody else starts and stops."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def __enter__(self) -> Progress:
        return self.progress

    def __exit__(self, *_):
        pass


def _save(state: dict, path: str | os.PathLike) -> None:
    with replacing(path, InputError) as temporary:
        torch.save(state, temporary)


def _load(path: str | os.PathLike, settings: dict) -> dict:
    try:
        state = torch.load(path, weights_only=True)
        other = state["settings"]
    except Exception as error:  # torch.load raises what its unpickler meets
        raise InputError(f"{path}: not a readable training checkpoint ({type(error).__name__}). Delete it to start anew.") from None
    if other != settings:
        different = ", ".join(f"{k}: {other.get(k)!r} / {settings[k]!r}" for k in settings if other.get(k) != settings[k])
        raise InputError(f"{path}: the checkpoint is of another training ({different}). Delete it, or train with its settings.")
    return state
