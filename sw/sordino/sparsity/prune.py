"""Vector-wise weight sparsity: whole weight words become zero, and the array issues no event for a zero weight word."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sordino_compiler.capture.parametrised import make_plain, plain
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import InputError

from ..nn.base import Penalised

__all__ = ["finish_pruning", "masks", "prune", "weight_words"]

Prunable = nn.Conv1d | nn.Conv2d | nn.Linear


class Mask(nn.Module):
    """Parametrisation of a weight: what is pruned is zero in every forward pass and gets no gradient."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask, weight, torch.zeros_like(weight))


class GroupLasso(Penalised):
    """Parametrisation of a weight that leaves it as it is and adds to the loss `strength * sum_v sqrt(n_v) ||w_v||_2`.

    The sum is over the weight words v of the layer, of n_v weights each (Yuan and Lin, "Model selection and estimation in
    regression with grouped variables", 2006, equation 2.1). `sordino.train.fit` collects it.
    """

    def __init__(self, lanes: int, groups: int, strength: float):
        super().__init__()
        self.lanes, self.groups, self.strength = lanes, groups, strength

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            words = _words(weight, self.lanes, self.groups)
            # The norm's gradient at zero is not defined; a word of zeros has none.
            norms = words.square().sum(2).clamp_min(1e-24).sqrt()
            self._penalty = self.strength * (norms * _sizes(weight, self.lanes, self.groups).sqrt()).sum()
        return weight


def prune(
    model: nn.Module,
    arch: str | ArchConfig = "ulx3s-85f",
    amount: float | Mapping[str, float] = 0.5,
    method: str = "magnitude",
    *,
    scope: str = "global",
    normalise: bool = True,
    skip: Collection[str] = (),
    strength: float = 1e-4,
    train: Callable[[nn.Module], object] | None = None,
) -> nn.Module:
    """A deep copy of `model` in which a part of the weight words is zero and stays so in training.

    A weight word is what one event reads: the weights of one input channel and kernel tap for up to `lanes` consecutive
    output channels (of one group, in a grouped convolution). Where all of them are zero the array issues nothing, so that
    zero weights and zero activations both save cycles. Depthwise convolutions run in vector mode, which has no weight
    mask: they are left alone. The largest word of every group of output channels stays, so that no channel is constant.

    Parameters
    ----------
    arch : its `lanes` are the words' width
    amount : part of the weight words to prune, 0 to 1; or one number for each module path (others are left alone), which
        implies `scope="layer"`. Words that are zero already count
    method : "magnitude" prunes the words with the least L2 norm. "group_lasso" first calls `train` on a copy with the
        group-lasso penalty, which draws whole words towards zero, and then prunes by magnitude
    scope : "global" ranks the words of all layers together, "layer" prunes `amount` of each layer
    normalise : divide norms by the root mean square of those of their layer before they are ranked (matters for "global")
    skip : module paths to leave alone
    strength, train : of "group_lasso": factor of the penalty, and the training, such as
        `lambda m: sd.train.fit(m, data, validation, epochs=10)`

    Fine-tune the result with `sordino.train.fit` or any loop; `quantize`, `prepare_qat`, `check` and `compile` take it as it is,
    and `finish_pruning` makes the zeros plain weights. Raises `InputError` for a bad argument or a model without a layer to prune.
    """
    arch = preset(arch)
    model = copy.deepcopy(model)
    layers = {path: m for path, m in _layers(model) if path not in skip}
    _check(model, layers, amount, method, scope, skip, strength, train)
    if isinstance(amount, Mapping):
        layers = {path: layers[path] for path in amount}
    if method == "group_lasso":
        assert train is not None
        for m in layers.values():
            lasso = GroupLasso(arch.lanes, _groups(m), strength)
            parametrize.register_parametrization(m, "weight", lasso)
            lasso.take_penalty()  # registering calls it
        train(model)
    ranked = {path: _rank(m, arch.lanes, normalise) for path, m in layers.items()}
    if isinstance(amount, Mapping) or scope == "layer":
        shares = amount if isinstance(amount, Mapping) else dict.fromkeys(layers, amount)
        pruned = {path: _lowest(r, round(shares[path] * r.numel())) for path, r in ranked.items()}
    else:
        together = torch.cat([r.flatten() for r in ranked.values()])
        parts = _lowest(together, round(amount * together.numel())).split([r.numel() for r in ranked.values()])
        pruned = {path: part.reshape(r.shape) for (path, r), part in zip(ranked.items(), parts, strict=True)}
    for path, m in layers.items():
        _set_mask(m, arch.lanes, pruned[path])
    return model


def masks(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a pruned model keeps: path of each weight -> bool tensor of its shape."""
    return {f"{path}.weight" if path else "weight": p.mask for path, m in model.named_modules() if (p := _mask(m)) is not None}


def finish_pruning(model: nn.Module) -> nn.Module:
    """A deep copy in which pruned weights, and any other parametrised tensors, are plain: training it would revive the zeros."""
    return plain(model)


@torch.no_grad()
def weight_words(model: nn.Module, arch: str | ArchConfig = "ulx3s-85f") -> dict[str, tuple[int, int]]:
    """Weight words of every layer that can be pruned: module path -> (words that are not zero, all words)."""
    lanes, found = preset(arch).lanes, {}
    for path, m in _layers(model):
        live = _words(m.weight, lanes, _groups(m)).ne(0).any(2)
        found[path] = int(live.sum()), live.numel()
    return found


# -- words -------------------------------------------------------------------------------------------------------------


def _layers(model: nn.Module) -> Iterator[tuple[str, Prunable]]:
    """Event layers: every convolution but depthwise ones, and every fully connected layer."""
    for path, m in model.named_modules():
        if isinstance(m, Prunable) and not (_groups(m) > 1 and _groups(m) == m.weight.shape[1] * _groups(m)):
            yield path, m


def _groups(m: Prunable) -> int:
    return 1 if isinstance(m, nn.Linear) else m.groups


def _words(weight: Tensor, lanes: int, groups: int) -> Tensor:
    """[cout, cin / groups, taps...] -> [word column, input channel x tap, lane], filled with zeros."""
    size = weight.shape[0] // groups
    columns = -(-size // lanes)
    flat = weight.reshape(groups, size, -1)
    padded = nn.functional.pad(flat, (0, 0, 0, columns * lanes - size))
    return padded.reshape(groups * columns, lanes, -1).transpose(1, 2)


def _sizes(weight: Tensor, lanes: int, groups: int) -> Tensor:
    """Weights in each word: [word column, 1]."""
    return _words(torch.ones_like(weight), lanes, groups)[:, :1].sum(2)


def _unwords(words: Tensor, shape: torch.Size, lanes: int, groups: int) -> Tensor:
    """Inverse of `_words` for one value for each word, [word column, input channel x tap]: a tensor of `shape`."""
    size = shape[0] // groups
    full = words[:, None].expand(-1, lanes, -1).reshape(groups, -1, words.shape[1])
    return full[:, :size].reshape(shape)


@torch.no_grad()
def _rank(m: Prunable, lanes: int, normalise: bool) -> Tensor:
    """Norm of every word; infinite for the largest of each word column, which stays."""
    words = _words(m.weight, lanes, _groups(m))
    norms = words.double().square().sum(2).sqrt()
    if normalise:
        norms /= norms.square().mean().sqrt().clamp_min(1e-30)
    return norms.scatter(1, norms.argmax(1, keepdim=True), float("inf"))


def _lowest(ranks: Tensor, count: int) -> Tensor:
    """True for the `count` least of the ranks, as far as they are finite; bool of their shape."""
    flat = ranks.flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(stable=True)[:count]] = True
    return (chosen & flat.isfinite()).reshape(ranks.shape)


def _mask(m: nn.Module) -> Mask | None:
    if not (isinstance(m, Prunable) and parametrize.is_parametrized(m, "weight")):
        return None
    assert isinstance(m.parametrizations, nn.ModuleDict)
    return next((p for p in m.parametrizations.modules() if isinstance(p, Mask)), None)


def _set_mask(m: Prunable, lanes: int, pruned: Tensor) -> None:
    """Replaces whatever parametrises the weight by one mask."""
    make_plain(m)
    keep = ~_unwords(pruned, m.weight.shape, lanes, _groups(m))
    with torch.no_grad():
        m.weight.mul_(keep)
    parametrize.register_parametrization(m, "weight", Mask(keep))


def _check(model, layers, amount, method: str, scope: str, skip, strength: float, train) -> None:
    known = dict(_layers(model))
    if not known:
        raise InputError("prune: the model has no convolution or fully connected layer that could be pruned.")
    for path in (*skip, *(amount if isinstance(amount, Mapping) else ())):
        if path not in known:
            raise InputError(f"prune: {path!r} is no layer that could be pruned; there are {', '.join(known)}.")
    for value in amount.values() if isinstance(amount, Mapping) else (amount,):
        if not 0 <= value <= 1:
            raise InputError(f"prune: amount must be from 0 to 1, not {value!r}.")
    if isinstance(amount, Mapping) and set(amount) - set(layers):
        raise InputError(f"prune: {min(set(amount) - set(layers))!r} stands in both amount and skip.")
    if not layers:
        raise InputError("prune: skip leaves no layer to prune.")
    if method not in ("magnitude", "group_lasso"):
        raise InputError(f"prune: unknown method {method!r}: choose magnitude or group_lasso.")
    if scope not in ("global", "layer"):
        raise InputError(f"prune: scope must be global or layer, not {scope!r}.")
    if not strength >= 0:
        raise InputError(f"prune: strength must not be negative, not {strength!r}.")
    if (train is not None) != (method == "group_lasso"):
        raise InputError("prune: group_lasso needs train=, a function that trains the model it is given; magnitude takes none.")
