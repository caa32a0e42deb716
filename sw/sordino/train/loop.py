"""`fit`: the training loop."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sordino_hw.spec.errors import InputError

from ..nn.base import device_of, penalty
from ..nn.shares import share_of_batch
from ..progress import bar
from .data import Batches, Data, Transform, accuracy, dataset, to_device
from .history import Epoch, History, Losses, measure
from .metrics import Metrics
from .parallel import Processes, join
from .state import load, random_state, save, set_random_state, snapshot

__all__ = ["Hook", "fit"]


class Hook(Protocol):
    """What `fit` calls before each epoch, and saves with its checkpoint."""

    def __call__(self, model: nn.Module, epoch: int) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on, of types that `torch.load(weights_only=True)` reads."""
        ...

    def load_state_dict(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Sets `model` and itself to a state that was saved."""
        ...


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
    metrics: str | os.PathLike | None = None,
    before_epoch: Hook | None = None,
    progress: bool | Progress = True,
    label: str = "train",
) -> History:
    """Trains `model` in place with AdamW and a cosine schedule; the loss is `loss(model(x), y)` plus its penalties.

    Parameters
    ----------
    train_data, validation : (inputs, targets) tensors, or a `Dataset` of such pairs; batches go to the model's device
    batch_size : images of one step, of all processes together
    loss : a mean over the batch
    score : higher is better; called as `score(model, validation)` after each epoch
    augment : `augment(x, generator) -> x` on each training batch
    penalty_weight : factor of the penalties; 0 for recovery, training a sparse network on its task alone
    budget : None keeps the last epoch. A number is the least `score` that is acceptable: of the epochs that reach it,
        the one with the fewest non-zero activations is kept; if none does, the model is left as it was
    patience : with a budget, stop after so many epochs in a row below it
    checkpoint : file that the whole state is written to after each epoch; if it is there, training resumes from it and
        ends exactly as it would have without the interruption. It is read with `weights_only=True`
    metrics : folder for the figures of each epoch: `metrics.csv`, and events for TensorBoard where it is installed
    before_epoch : called as `before_epoch(model, epoch)` before each epoch, such as `sordino.CostWeights`; what its
        `state_dict()` gives is in the checkpoint
    progress : whether to show a bar, or the `rich` progress display to add one to

    Several processes: started by `torchrun`, or with a process group of torch.distributed that is there already, the
    processes train one model together. All start from the first one's weights, each takes its share of every batch,
    and all end with the same weights; what it comes to is what one process would come to, see docs/how-to/train-on-several-processes.md. The
    first process alone evaluates, writes the checkpoint and the metrics, and shows progress.

    Deterministic: the same arguments, seed and number of processes give the same weights on the same machine; torch's
    global generator is left as it was. Raises `InputError` for empty data, a loss that is not finite, or a checkpoint of
    another training.
    """
    if not len(dataset(train_data)) or not len(dataset(validation)):
        raise InputError("fit: the training and the validation data must not be empty")
    if epochs < 1:
        raise InputError(f"fit: epochs must be at least 1, not {epochs!r}")
    processes = join(model)
    settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "weight_decay": weight_decay, "seed": seed}
    settings |= {"penalty_weight": penalty_weight, "budget": budget, "processes": processes.count}
    settings["before_epoch"] = None if before_epoch is None else type(before_epoch).__name__
    device = device_of(model)

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(processes.seed(seed))
        run = _Training(model, Batches(train_data, batch_size, torch.Generator().manual_seed(seed), processes), processes)
        run.start(settings, torch.Generator().manual_seed(processes.seed(seed + 1)), before_epoch, checkpoint)
        objective: nn.Module = _Objective(model, loss, penalty_weight)
        if processes.count > 1:  # which also gives everybody the weights and buffers of the first process
            objective = DistributedDataParallel(objective, forward_sync_buffers=False, find_unused_parameters=True)
        history, run.kept = run.history, run.kept or snapshot(model)
        with bar(progress, processes.main) as display, Metrics(metrics) as figures:
            processes.once(lambda: figures.start(history.epochs))
            task = display.add_task(label, total=epochs, completed=len(history.epochs), note="")
            for epoch in range(len(history.epochs), epochs):
                if history.exhausted(budget, patience):
                    break
                begin, rate = time.perf_counter(), run.optimiser.param_groups[0]["lr"]
                if before_epoch is not None:
                    _call(before_epoch, model, epoch, processes)
                losses = _epoch(model, objective, run.batches, run.optimiser, run.schedule, augment, run.noise, processes)

                def evaluate(epoch=epoch, begin=begin, rate=rate, losses=losses) -> Epoch:
                    record = measure(model, validation, score, epoch, losses, rate)
                    return dataclasses.replace(record, seconds=time.perf_counter() - begin)

                record = processes.once(evaluate)
                if budget is None or history.sparsest(record, budget):
                    history.best, run.kept = epoch, snapshot(model)
                history.epochs.append(record)
                processes.once(lambda: figures.add(history.epochs))
                run.save()
                display.update(task, advance=1, note=f"score {record.score:.4f} density {record.density:.3f}")
    model.load_state_dict(run.kept)
    model.eval()
    return history


class _Training:
    """All that changes from epoch to epoch, which is what a checkpoint holds."""

    def __init__(self, model: nn.Module, batches: Batches, processes: Processes):
        self.model, self.batches, self.processes, self.device = model, batches, processes, device_of(model)
        self.history = History()
        self.kept: dict[str, Tensor] = {}
        """The state that `fit` ends with."""

    def start(
        self, settings: dict[str, Any], noise: torch.Generator, hook: Hook | None, checkpoint: str | os.PathLike | None
    ) -> None:
        """Makes optimiser and schedule, and goes on from the checkpoint if there is one. `noise` draws augmentations."""
        self.settings, self.noise, self.hook, self.checkpoint = settings, noise, hook, checkpoint
        self.optimiser = torch.optim.AdamW(self.model.parameters(), settings["lr"], weight_decay=settings["weight_decay"])
        steps = settings["epochs"] * len(self.batches)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, steps)
        state = None
        if checkpoint is not None:
            state = self.processes.once(lambda: load(checkpoint, settings) if Path(checkpoint).exists() else None)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.batches.generator.set_state(state["shuffle"])
        set_random_state(state["random"][self.processes.rank], noise, self.device)
        self.history = History([Epoch(**e) for e in state["history"]], state["best"])
        self.kept = state["kept"]
        if hook is not None:
            hook.load_state_dict(self.model, state["hook"])

    def save(self) -> None:
        """Writes the checkpoint, if one is wanted; every process must call it."""
        if self.checkpoint is None:
            return
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "shuffle": self.batches.generator.get_state(),
            "random": self.processes.gather(random_state(self.noise, self.device)),
            "kept": self.kept,
            "hook": None if self.hook is None else self.hook.state_dict(),
            "best": self.history.best,
            "history": [dataclasses.asdict(e) for e in self.history.epochs],
        }
        self.processes.once(functools.partial(save, state, self.checkpoint))


class _Objective(nn.Module):
    """What is minimised, as one module, so that `DistributedDataParallel` sees the penalties too."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], weight: float):
        super().__init__()
        self.model, self.loss, self.weight = model, loss, weight
        # Some methods' parameters rest, depending on the data; where all are used, DDP would advise against looking for such.
        self.unused = nn.Parameter(torch.zeros((), device=device_of(model)))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss with the penalties, and detached the loss without and the penalties."""
        task = self.loss(self.model(x), y)
        extra = penalty(self.model)
        if extra is None:
            return task, task.detach(), torch.zeros_like(task)
        return task + self.weight * extra, task.detach(), extra.detach()


def _epoch(model, objective, batches, optimiser, schedule, augment, noise, processes: Processes) -> Losses:
    model.train()
    device, several = device_of(model), processes.count > 1
    sums, count = [0.0, 0.0, 0.0], 0
    for x, y, part, whole in batches:
        if augment is not None:
            x = augment(x, noise)
        x, y = to_device((x, y), device)
        optimiser.zero_grad()
        with share_of_batch(part) if several else nullcontext():
            value, task, extra = objective(x, y)
        if not torch.isfinite(value):
            raise InputError(
                f"fit: the loss became {float(value.detach())}. Check the data for NaNs, or lower the learning rate or the penalty's strength."
            )
        # DistributedDataParallel takes the mean of the gradients, but shares differ in size.
        (value * (processes.count * part / whole) if several else value).backward()
        optimiser.step()
        schedule.step()
        sums = [total + float(v.detach()) * part for total, v in zip(sums, (value, task, extra), strict=True)]
        count += part
    processes.agree(model)
    *sums, total = processes.sum([*sums, count], device)
    return Losses(*(s / total for s in sums))


def _call(hook: Hook, model: nn.Module, epoch: int, processes: Processes) -> None:
    """Calls the hook in every process; where results differ by rounding, the first one's hold."""
    hook(model, epoch)
    if processes.count > 1:
        state = processes.once(hook.state_dict)
        if not processes.main:
            hook.load_state_dict(model, state)
