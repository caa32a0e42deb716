"""How a task is trained: plain first, then sparse, then recovery."""

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

from ...data import Split
from ...nn import density, method
from ...sparsity import sparsify
from ...train import accuracy, fit
from ..recipe import Phase, Search, train_sparse
from .checkpoint import Kind, Trained
from .task import Recipe, Task

__all__ = ["train_task"]


def train_task(
    task: Task,
    kind: Kind,
    seed: int = 0,
    *,
    plain: nn.Module | None = None,
    epochs: int | None = None,
    options: Mapping[str, Any] | None = None,
    metrics: str | os.PathLike | None = None,
    state: str | os.PathLike | None = None,
    progress: bool | Progress = True,
) -> Trained:
    """Trains a task with a method: a plain network (or `plain`, already trained) first, which is then fine-tuned.

    `kind` is a method's name, or a name (or None) by pattern of the module path as `sparsify` takes them.
    Runs on one thread: small networks gain nothing from more, and sums do not depend on the number of processors then.
    `epochs` replaces the epochs of each phase that the method has; `options` overrides the recipe's options of the
    methods that have them. `metrics` is a folder that gets one of `fit`'s for each phase: "plain", "sparse", "recovery". `state` is a folder for
    the checkpoint of each phase, with which an interrupted training goes on. The test set is only used for the figure at the end. Raises `InputError` for an unknown method.
    """
    for name in kind.values() if isinstance(kind, Mapping) else (kind,):
        if name is not None:
            method(name)
    if kind == "relu" and options:
        raise InputError(f"train: the method 'relu' has no option {next(iter(options))!r}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(task, kind, seed, plain, epochs, options, metrics, state, progress)
    finally:
        torch.set_num_threads(threads)


def _train(
    task: Task, kind: Kind, seed: int, plain: nn.Module | None, epochs: int | None, options, metrics, state, progress
) -> Trained:
    recipe, data = task.recipe, task.data()
    shared: dict[str, Any] = {"augment": task.augment, "batch_size": recipe.batch_size, "seed": seed, "progress": progress}

    def phase(name: str) -> dict[str, Any]:
        files = {
            "metrics": None if metrics is None else Path(metrics) / name,
            "checkpoint": None if state is None else Path(state) / f"{name}.pt",
        }
        return {**shared, **files}

    history = []
    if plain is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            plain = task.build()
        history += fit(
            plain, data.train, data.validation, epochs or recipe.plain, lr=recipe.plain_lr, label="plain ReLU", **phase("plain")
        ).epochs
    used: dict[str, Any]
    if isinstance(kind, Mapping):
        used = {pattern: _options(recipe, name, options) for pattern, name in kind.items()}
        model = _fine_tune(
            task,
            {p: None if name is None else (name, used[p]) for p, name in kind.items()},
            plain,
            data,
            options,
            epochs,
            phase,
            history,
        )
    elif kind == "relu":
        used = {}
        model = copy.deepcopy(plain)
    else:
        used = {**recipe.options.get(kind, {}), **(options or {})}
        model = _fine_tune(task, {"*": (kind, used)}, plain, data, {}, epochs, phase, history)
    counts = density(model, data.test[0])
    return Trained(
        model=model,
        task=task.name,
        method=kind,
        options=used,
        seed=seed,
        validation_accuracy=accuracy(model, data.validation),
        test_accuracy=accuracy(model, data.test),
        density=sum(n for n, _ in counts.values()) / sum(n for _, n in counts.values()),
        nonzero=sum(n for n, _ in counts.values()) / len(data.test[0]),
        history=history,
    )


def _options(recipe: Recipe, name: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe's options of a method, and those of `options` that it has."""
    if name is None:
        return {}
    known = inspect.signature(method(name)).parameters
    return {**recipe.options.get(name, {}), **{k: v for k, v in (options or {}).items() if k in known}}


def _fine_tune(
    task: Task,
    choices: Mapping[str, tuple[str, Mapping[str, Any]] | None],
    plain: nn.Module,
    data: Split,
    common: Mapping[str, Any] | None,
    epochs: int | None,
    phase: Callable[[str], dict[str, Any]],
    history: list,
) -> nn.Module:
    recipe = task.recipe

    def priced(options: Mapping[str, Any]) -> dict[str, Any]:
        return {k: {path: v * cost for path, cost in task.costs.items()} if k == "strength" else v for k, v in options.items()}

    methods = {pattern: None if choice is None else (choice[0], priced(choice[1])) for pattern, choice in choices.items()}
    unused = {k: v for k, v in (common or {}).items() if not any(c and k in c[1] for c in choices.values())}
    model = sparsify(plain, methods, calibration=data.train[0], **unused)
    label = ", ".join(dict.fromkeys(c[0] for c in choices.values() if c))

    def train(part: Phase) -> None:
        shown = label if part.name == "sparse" else f"{label}, {part.name}"
        options = {"lr": recipe.sparse_lr, "penalty_weight": part.penalty_weight, "label": shown, **phase(part.name)}
        history.extend(fit(model, data.train, data.validation, part.epochs, **options).epochs)

    def search() -> Search:
        many = _augmented(task, data.validation)
        return Search(data.validation[0], lambda m: accuracy(m, many), accuracy(plain, many) - recipe.budget, task.costs)

    train_sparse(model, train, epochs or recipe.sparse, epochs or recipe.recovery, search)
    return model


def _augmented(task: Task, data: tuple[Tensor, Tensor], times: int = 4) -> tuple[Tensor, Tensor]:
    """The data and `times - 1` jittered copies: a score with less noise than the images alone give."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([data[0], *(task.augment(data[0], generator) for _ in range(times - 1))])
    return x, data[1].repeat(times)
