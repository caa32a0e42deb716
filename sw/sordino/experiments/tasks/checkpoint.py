"""Checkpoints of `sordino train`: a safetensors file of weights whose metadata says how to build the model."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

from ...sparsity import sparsify
from ...train import Epoch
from .task import TASKS

__all__ = ["Kind", "Trained", "load_checkpoint", "save_checkpoint"]

Kind = str | Mapping[str, str | None]
"""A method's name, or names by pattern of the module path; None leaves layers as they are."""


@dataclass
class Trained:
    """A trained example network and how it came about. `options` are those of the method, or by pattern. Accuracies from 0 to 1; density and non-zero activations (mean
    of an image) on the test set, over the activations that a method may replace."""

    model: nn.Module
    task: str
    method: Kind
    options: dict[str, Any]
    seed: int
    validation_accuracy: float
    test_accuracy: float
    density: float
    nonzero: float
    history: list[Epoch] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Everything but the model, as JSON values (see docs/reference/figures.md)."""
        d = {k: v for k, v in vars(self).items() if k not in ("model", "history")}
        return {**d, "history": [vars(e) for e in self.history]}


def save_checkpoint(trained: Trained, path: str | os.PathLike) -> None:
    """Writes a checkpoint; on failure nothing is left behind. Raises `InputError` if it cannot be written."""
    tensors = {k: v.contiguous() for k, v in trained.model.state_dict().items()}
    with replacing(path, InputError) as temporary:
        save_file(tensors, temporary, {"sordino": json.dumps(trained.figures())})


def load_checkpoint(path: str | os.PathLike) -> Trained:
    """Builds the model again and loads its weights. Nothing is unpickled.

    Raises `InputError` for a file that is missing, damaged, or no checkpoint of `sordino train`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. `sordino train` makes a checkpoint.")
    try:
        with safe_open(path, framework="pt") as f:
            document = (f.metadata() or {}).get("sordino")
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file, truncated or corrupt ({error}). Train again.") from None
    if document is None:
        raise InputError(
            f"{path}: holds weights, but not of `sordino train`. For a network of your own, name its factory: "
            f"sordino compile MODEL.py:factory --weights {path.name}."
        )
    try:
        d = json.loads(document)
        own = d.get("own", False)
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path}: the checkpoint is damaged ({error}). Train again.") from None
    if own:
        raise InputError(
            f"{path}: holds the weights of a network of your own. Name its file and class: "
            f"sordino compile FILE.py:NAME --weights {path.name}."
        )
    try:
        task = TASKS[d["task"]]
        model = task.build()
        kind, options = d["method"], d["options"]
        if isinstance(kind, str):
            kind, options = {"*": None if kind == "relu" else kind}, {"*": options}
        model = sparsify(model, {p: m and (m, {k: v for k, v in options[p].items() if k != "strength"}) for p, m in kind.items()})
        model.load_state_dict(tensors)
        history = [Epoch(**e) for e in d.pop("history")]
        return Trained(model=model.eval(), history=history, **d)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: the checkpoint does not fit this version ({type(error).__name__}: {error}). Train again."
        ) from None
