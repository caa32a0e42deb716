"""Training a classifier of one's own on data of one's own: plain, sparse, pruned, quantisation-aware; what `sordino train FILE.py:NAME` does."""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

from ..data import CIFAR100, ClassFolders, Split
from ..nn import density, method, sites
from ..quantization import QuantizedModel, finish_qat, prepare_qat
from ..sparsity import sparsify
from ..sparsity.activations import How
from ..sparsity.blend import Blend
from ..sparsity.prune import finish_pruning, prune
from ..train import Epoch, accuracy, fit
from .recipe import Phase, train_sparse

__all__ = ["OwnRecipe", "OwnTrained", "load_own_weights", "read_data", "save_own_weights", "train_own"]

HELD_OUT = 0.1
"""Part of the training images that validate where the data has none for it."""


@dataclass(frozen=True)
class OwnRecipe:
    """What to do, in this order; a phase of 0 epochs is left out."""

    method: str | Mapping[str, str | None] = "star"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the method, such as `strength`."""
    replace: Mapping[str, How] = field(default_factory=dict)
    """Which smooth activations are replaced too, and how; see `sparsify`. A third more epochs blend, where one is to."""
    epochs: int = 30
    """Of the plain network."""
    sparse_epochs: int = 30
    """With the method. A method that keeps its zeros without a penalty has none in the second half."""
    prune: float = 0.0
    """Part of the weight words to prune."""
    prune_epochs: int = 10
    qat_epochs: int = 0
    """Of quantisation-aware training, at a tenth of the learning rate."""
    lr: float = 1e-3
    batch_size: int = 32
    seed: int = 0


@dataclass
class OwnTrained:
    """A trained network, and its figures. `quantised` is there after quantisation-aware training."""

    model: nn.Module
    recipe: OwnRecipe
    validation_accuracy: float
    test_accuracy: float
    density: float
    """Non-zero part of the activations that a method may replace, on the test images."""
    history: list[Epoch]
    quantised: QuantizedModel | None = None

    def figures(self) -> dict[str, Any]:
        """Everything but the models, as JSON values."""
        kind = self.recipe.method
        return {
            **{k: v for k, v in asdict(self.recipe).items() if k not in ("method", "options", "replace")},
            "replace": dict(self.recipe.replace),
            "method": kind if isinstance(kind, str) else dict(kind),
            "options": dict(self.recipe.options),
            "validation_accuracy": self.validation_accuracy,
            "test_accuracy": self.test_accuracy,
            "density": self.density,
            "quantised": self.quantised is not None,
            "history": [vars(e) for e in self.history],
        }


def read_data(path: str | os.PathLike, shape: tuple[int, int, int], seed: int = 0) -> tuple[Split, int]:
    """Images and labels as a `Split`, and the number of classes.

    `path` is a folder of CIFAR-100's binary version; a folder of class folders (`ClassFolders`), scaled to `shape`
    (channels, height, width); or a `.npz` file with `train_x`, `train_y` and, if there are any, `val_x`, `val_y`, `test_x`, `test_y`.
    Where there is nothing for validation, a tenth of the training images is held out; where there is nothing for the test, the
    validation images stand for it. Raises `InputError`.
    """
    path = Path(path)
    if path.suffix == ".npz":
        parts = _arrays(path)
    elif any((folder / "train.bin").is_file() for folder in (path, path / "cifar-100-binary")):
        parts = {"train": _whole(CIFAR100(path, "train")), "test": _whole(CIFAR100(path, "test"))}
    else:
        present = [s for s in ("train", "val", "test") if s == "train" or (path / s).is_dir()]
        parts = {s: _whole(ClassFolders(path, s, size=shape[1:], channels=shape[0])) for s in present}
    train = parts["train"]
    if "val" not in parts:
        if len(train[0]) < 2:
            raise InputError(f"{path}: {len(train[0])} training images; at least two are needed, one of them to validate.")
        order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
        count = max(1, round(HELD_OUT * len(order)))
        parts["val"] = (train[0][order[:count]], train[1][order[:count]])
        train = (train[0][order[count:]], train[1][order[count:]])
    split = Split(train, parts["val"], parts.get("test", parts["val"]))
    for x, _ in (split.train, split.validation, split.test):
        if tuple(x.shape[1:]) != shape:
            raise InputError(f"{path}: its images have the shape {tuple(x.shape[1:])}, but the network takes {shape} (--example).")
    return split, 1 + max(int(y.max()) for _, y in (split.train, split.validation, split.test))


def _whole(data: Any) -> tuple[Tensor, Tensor]:
    x, y = zip(*DataLoader(data, 256), strict=True)
    return torch.cat(x), torch.cat(y).long()


def _arrays(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # numpy raises OSError, ValueError, EOFError, zipfile.BadZipFile, ...
        raise InputError(f"{path}: not a readable .npz file ({error}). Write it with numpy.savez.") from None
    parts = {}
    for name in ("train", "val", "test"):
        x, y = arrays.get(f"{name}_x"), arrays.get(f"{name}_y")
        if x is None and y is None and name != "train":
            continue
        if x is None or y is None:
            raise InputError(
                f"{path}: it has no array {name}_{'x' if x is None else 'y'}; images and labels come as {name}_x and {name}_y."
            )
        if x.dtype.kind not in "fiub" or y.dtype.kind not in "iu" or y.ndim != 1 or len(x) != len(y) or not len(x):
            raise InputError(
                f"{path}: {name}_x must hold numbers and {name}_y one integer label for each image; found {x.dtype} {x.shape} and "
                f"{y.dtype} {y.shape}."
            )
        if y.min() < 0 or not np.isfinite(x).all():
            raise InputError(f"{path}: {name}_y must not be negative, and {name}_x must be finite.")
        scale = 255.0 if x.dtype == np.uint8 else 1.0
        parts[name] = (torch.from_numpy(x.astype(np.float32) / scale), torch.from_numpy(y.astype(np.int64)))
    return parts


def train_own(
    model: nn.Module,
    data: Split,
    recipe: OwnRecipe,
    arch: ArchConfig,
    *,
    state: str | os.PathLike | None = None,
    metrics: str | os.PathLike | None = None,
    progress: bool | Progress = True,
) -> OwnTrained:
    """Trains `model`, which is changed, phase by phase as `recipe` says. Every phase is one call of `fit`, whose checkpoint in the
    folder `state` lets an interrupted training go on. Raises `InputError` for bad data and unknown methods."""
    names = recipe.method.values() if isinstance(recipe.method, Mapping) else (recipe.method,)
    layers = [method(name) for name in names if name is not None]
    for option in recipe.options:
        if not any(option in inspect.signature(layer).parameters for layer in layers):
            raise InputError(f"train: the method {', '.join(filter(None, names))} has no option {option!r}")
    if recipe.method != "relu":
        _sparsified(model, data.train[0][:2], recipe)  # what it refuses is better known before the training than after it
    history: list[Epoch] = []

    def phase(network: nn.Module, name: str, epochs: int, **options: Any) -> None:
        if epochs:
            settings = {"lr": recipe.lr, "batch_size": recipe.batch_size, "seed": recipe.seed, "progress": progress, **options}
            files: dict[str, Any] = {
                "checkpoint": None if state is None else Path(state) / f"{name}.pt",
                "metrics": None if metrics is None else Path(metrics) / name,
            }
            history.extend(fit(network, data.train, data.validation, epochs, label=name, **settings, **files).epochs)

    phase(model, "plain", recipe.epochs)
    if recipe.method != "relu":
        model = _sparse(model, data, recipe, phase)
    if recipe.prune:
        model = prune(model, arch, recipe.prune)
        phase(model, "pruned", recipe.prune_epochs)
    quantised = None
    if recipe.qat_epochs:
        qat = prepare_qat(model, data.train[0][:256], arch)
        phase(qat, "qat", recipe.qat_epochs, lr=recipe.lr / 10)
        quantised = finish_qat(qat)
    model = finish_pruning(model) if recipe.prune else model
    counts = density(model, data.test[0]) if any(True for _ in sites(model)) else {}
    final: Any = quantised if quantised is not None else model
    return OwnTrained(
        model,
        recipe,
        _accuracy(final, data.validation),
        _accuracy(final, data.test),
        sum(n for n, _ in counts.values()) / sum(n for _, n in counts.values()) if counts else 1.0,
        history,
        quantised,
    )


def _sparsified(model: nn.Module, calibration: Tensor, recipe: OwnRecipe) -> nn.Module:
    replace = dict(recipe.replace) or None
    return sparsify(model, recipe.method, calibration=calibration, cost="fanout", replace=replace, **recipe.options)


def _sparse(model: nn.Module, data: Split, recipe: OwnRecipe, phase: Callable[..., None]) -> nn.Module:
    model = _sparsified(model, data.train[0][:1024], recipe)
    if "blend" in recipe.replace.values():
        fading = max(1, recipe.sparse_epochs // 3)
        phase(model, "blend", fading + 1, before_epoch=Blend(fading))

    def train(part: Phase) -> None:
        phase(model, part.name, part.epochs, penalty_weight=part.penalty_weight)

    recovery = recipe.sparse_epochs // 2
    train_sparse(model, train, recipe.sparse_epochs - recovery, recovery)
    return model


@torch.no_grad()
def _accuracy(model: Any, data: tuple[Tensor, Tensor]) -> float:
    if isinstance(model, nn.Module):
        return accuracy(model, data)
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(data[0].split(256), data[1].split(256), strict=True))
    return hits / len(data[1])


def save_own_weights(trained: OwnTrained, path: str | os.PathLike) -> None:
    """Writes the weights, and in the file's metadata the method, so that `load_own_weights` can put its layers in place."""
    tensors = {k: v.contiguous() for k, v in trained.model.state_dict().items()}
    document = {"own": True, **trained.figures()}
    if (report := getattr(trained.model, "sparsification", None)) is not None:
        document["shapes"] = [list(shape) for shape in report.shapes]
    with replacing(path, InputError) as temporary:
        save_file(tensors, temporary, {"sordino": json.dumps(document)})


def load_own_weights(model: nn.Module, path: str | os.PathLike) -> nn.Module | None:
    """The model with the method and the weights of a file that `save_own_weights` wrote; None for any other file.

    Raises `InputError` for weights that do not fit.
    """
    try:
        with safe_open(path, framework="pt") as f:
            document = json.loads((f.metadata() or {}).get("sordino", "null"))
            if not isinstance(document, dict) or not document.get("own"):
                return None
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError):
        return None
    try:
        options = {k: v for k, v in document["options"].items() if k != "strength"}
        if document["method"] != "relu":
            # Calls of functions are found by running the model; what the layers are calibrated to is overwritten.
            noise = tuple(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) for shape in document.get("shapes", ()))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it was said when the network was trained
                model = sparsify(
                    model, document["method"], calibration=noise or None, replace=document.get("replace") or None, **options
                )
        model.load_state_dict(tensors)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: the weights do not fit the model. {' '.join(str(error).split())}") from None
    return model.eval()
