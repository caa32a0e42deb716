"""STAR: thresholded activation under partial regularisation, and the search for its final thresholds."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, density, layer_inputs, register
from .ops import threshold_relu

__all__ = ["STAR", "search_thresholds"]


@register("star", "ReLU with a threshold and a penalty on the near-zero activations only")
class STAR(SparseActivation):
    """`y = x * 1[x >= T]` (T > 0); `loss += strength * sum |x| * 1[0 < x < T]`, over an image, mean over the batch.

    Parameters
    ----------
    strength : the lambda of the layer
    quantile : where `calibrate` puts T in the distribution of the layer's positive inputs, 0 (nothing cut) to 1
    per : "layer" (one T, shape []) or "channel" (one T a channel, shape [C])
    forward : "relu": training sees a ReLU and T bounds the penalty only, so that near-zero activations still get the
        task's gradient, evaluation applies T; "threshold": training applies T too

    The penalty acts on the near-zero part alone: it empties the band below T, so that cutting there costs little, and
    leaves large activations alone where L1 shrinks them. Fine-tune from a trained network, then `search_thresholds`.

    Source: "STAR: Sparse Thresholded Activation under partial-Regularization", CVPR Workshops 2023. Its abstract gives
    the penalty on near-zero activations followed by thresholding; the exact formula was not at hand, so this is a
    reading of it, and `quantile`, `per` and `forward` are ours.

    Raises `InputError` for options outside their range.
    """

    threshold: Tensor
    keeps_zeros = True

    def __init__(self, strength: float = 1e-3, quantile: float = 0.3, per: str = "layer", forward: str = "threshold"):
        super().__init__()
        if not strength >= 0:
            raise InputError(f"{type(self).__name__}: strength must not be negative, not {strength!r}")
        if not 0 <= quantile < 1:
            raise InputError(f"{type(self).__name__}: quantile must be in [0, 1), not {quantile!r}")
        if per not in ("layer", "channel"):
            raise InputError(f"{type(self).__name__}: per must be 'layer' or 'channel', not {per!r}")
        if forward not in ("relu", "threshold"):
            raise InputError(f"{type(self).__name__}: forward must be 'relu' or 'threshold', not {forward!r}")
        self.strength, self.quantile, self.per, self.mode = strength, quantile, per, forward
        self.register_buffer("threshold", torch.zeros(()))

    def activate(self, x: Tensor) -> Tensor:
        if self.training and self.mode == "relu":
            return x.relu()
        return threshold_relu(x, self.threshold)

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        t = self.threshold.reshape(-1, *[1] * (x.dim() - 2))
        return self.strength * (x * ((x > 0) & (x < t)).to(x.dtype)).sum() / len(x)

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        self.threshold = self.quantile_of(inputs, self.quantile)

    def watched(self) -> dict[str, Tensor]:
        return {"threshold": self.threshold}

    def quantile_of(self, inputs: Sequence[Tensor], quantile: float) -> Tensor:
        """The `quantile` of the positive values of tensors (N, C, ...): of all ([]) or of each channel ([C])."""
        if self.per == "layer":
            groups = [torch.cat([x.flatten() for x in inputs])]
        else:
            channels = {x.shape[1] for x in inputs}
            if len(channels) > 1:
                raise InputError(
                    f"{type(self).__name__}: one activation module is called on tensors of {' and '.join(map(str, sorted(channels)))} channels, so it "
                    "cannot have a threshold per channel. Give sordino.sparsify calibration=, so that each call gets a layer, or use per='layer'."
                )
            groups = list(torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1))
        cuts = []
        for group in groups:
            positive = group[group > 0].sort().values
            cuts.append(positive[int(quantile * len(positive))] if len(positive) and quantile > 0 else group.new_zeros(()))
        return cuts[0] if self.per == "layer" else torch.stack(cuts)

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, quantile={self.quantile:g}, per={self.per!r}, forward={self.mode!r}"

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # A calibrated layer has a threshold per channel: take its shape, which a new layer cannot know.
        saved = state_dict.get(prefix + "threshold")
        if saved is not None:
            self.threshold = torch.zeros_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def search_thresholds(
    model: nn.Module,
    x: Tensor,
    score: Callable[[nn.Module], float],
    floor: float,
    weights: dict[str, float] | None = None,
    steps: Sequence[float] = tuple(q / 20 for q in range(1, 19)),
    progress: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Raises the thresholds of the STAR layers of `model`, in place, as far as `score(model) >= floor` allows.

    Greedy: in each round every layer is tried at the next quantile of its positive inputs on the calibration set `x`;
    of those that keep the floor, the one that removes most weighted non-zero activations stays. `weights` gives the
    cost of one activation by module path (default 1 each). Returns the chosen quantile by module path; layers that
    were never raised are left out and keep their thresholds. Use held-out data that is not the test set.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, STAR)}
    seen = layer_inputs(model, x)
    ladder: dict[str, list[tuple[float, Tensor]]] = {}
    for name, m in layers.items():
        rungs = [(q, torch.maximum(m.quantile_of(seen[m], q), m.threshold)) for q in sorted(steps)]
        ladder[name] = [(q, t) for q, t in rungs if bool((t > m.threshold).any())]

    def events() -> float:
        return sum(n * (weights or {}).get(name, 1.0) for name, (n, _) in density(model, x).items())

    chosen: dict[str, float] = {}
    now = events()
    while True:
        best = None
        for name, layer in layers.items():
            if not ladder[name]:
                continue
            before, (q, t) = layer.threshold, ladder[name][0]
            layer.threshold = t
            if score(model) >= floor:
                left = events()
                if best is None or left < best[0]:
                    best = (left, name, q, t)
            else:
                ladder[name] = []
            layer.threshold = before
        if best is None:
            return chosen
        now, name, q, t = best
        layers[name].threshold = t
        chosen[name] = q
        ladder[name].pop(0)
        if progress:
            progress(f"{name} at quantile {q:.2f}: {now / len(x):.0f} non-zero activations an image")
