"""Nodes with weights, activations and pooling, as the layers of `torch.nn` that they are; sparsifying and pruning find them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reader import OnnxNode, Value

__all__ = ["LAYERS", "Norm", "Padded", "Unsupported"]

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAXIMA: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Unsupported(Exception):
    """What of a node is not supported, and what to do; the importer adds the node's name."""


class Padded(nn.Module):
    """A layer behind padding that differs from side to side, or that follows from the input's size (`auto_pad`)."""

    def __init__(self, layer: nn.Module, pads: Sequence[int] | None, value: float, same: tuple | None = None):
        super().__init__()
        self.layer, self.pads, self.value, self.same = layer, pads, value, same

    def forward(self, x: Tensor) -> Tensor:
        pads = self.pads if self.same is None else _same(x, *self.same)
        assert pads is not None
        return self.layer(F.pad(x, list(pads), value=self.value) if any(pads) else x)


class Norm(nn.modules.batchnorm._BatchNorm):
    """A batch norm over any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], upper: bool) -> list[int]:
    """The padding of SAME_UPPER and SAME_LOWER, in the order of `F.pad`."""
    pads: list[int] = []
    for size, k, s, d in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), reversed(dilation), strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        less, more = total // 2, total - total // 2
        pads += [less, more] if upper else [more, less]
    return pads


def _window(node: OnnxNode, rank: int, kernel: Sequence[int]) -> dict[str, Any]:
    """Stride, dilation and padding of a node: `pads` where they differ from side to side, else `padding`."""
    stride, dilation = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    pads = list(node.get("pads") or [0] * 2 * rank)
    auto = node.get("auto_pad", "NOTSET")
    if {len(stride), len(dilation), len(pads) // 2, len(kernel)} != {rank} or min(*stride, *dilation, *kernel) < 1 or min(pads) < 0:
        raise Unsupported(f"kernel {list(kernel)}, strides {stride}, dilations {dilation} and pads {pads} do not fit each other")
    same = (tuple(kernel), tuple(stride), tuple(dilation), auto == "SAME_UPPER") if auto.startswith("SAME") else None
    begin, end = pads[:rank], pads[rank:]
    equal = begin == end and same is None
    order = [p for both in zip(reversed(begin), reversed(end), strict=True) for p in both]
    return {
        "stride": stride,
        "dilation": dilation,
        "padding": begin if equal else [0] * rank,
        "pads": None if equal else order,
        "same": same,
    }


def _padded(layer: nn.Module, window: dict[str, Any], value: float = 0.0) -> nn.Module:
    return layer if window["pads"] is None else Padded(layer, window["pads"], value, window["same"])


def _weight(node: OnnxNode, constants: Sequence[Any], rank: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer. Raises `Unsupported` where they are computed."""
    weight = constants[1] if len(constants) > 1 else None
    given = len(node.inputs) > 2 and bool(node.inputs[2])
    bias = constants[2] if given else None
    if not isinstance(weight, Tensor) or (given and not isinstance(bias, Tensor)):
        raise Unsupported("its weights are computed from an input, or are integers; give them as float constants")
    if rank is not None and weight.dim() != rank:
        raise Unsupported(f"its weights have the shape {tuple(weight.shape)}")
    return weight, None if bias is None else bias.reshape(-1)


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    shapes = tuple(layer.weight.shape), None if bias is None else tuple(layer.bias.shape)  # type: ignore[union-attr, arg-type]
    if shapes != (tuple(weight.shape), None if bias is None else tuple(bias.shape)):
        raise Unsupported(f"weights of the shape {tuple(weight.shape)} do not fit its attributes")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def conv(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    weight, bias = _weight(node, constants)
    rank, groups = weight.dim() - 2, node.get("group", 1)
    if rank not in CONVOLUTIONS or groups < 1 or len(weight) % groups:
        raise Unsupported(f"weights of the shape {tuple(weight.shape)} in {groups} groups")
    w = _window(node, rank, weight.shape[2:])
    with torch.device("meta"):
        layer = CONVOLUTIONS[rank](
            weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), tuple(w["stride"]), tuple(w["padding"]), tuple(w["dilation"]),
            groups, bias is not None,
        )  # fmt: skip
    return _padded(_filled(layer, weight, bias), w)


def conv_transpose(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    weight, bias = _weight(node, constants)
    rank, groups = weight.dim() - 2, node.get("group", 1)
    if rank not in TRANSPOSED or groups < 1 or len(weight) % groups:
        raise Unsupported(f"weights of the shape {tuple(weight.shape)} in {groups} groups")
    w = _window(node, rank, weight.shape[2:])
    if w["pads"] is not None or node.get("output_shape"):
        raise Unsupported(
            "pads differ from side to side, or follow from output_shape; export it with equal pads and output_padding"
        )
    with torch.device("meta"):
        layer = TRANSPOSED[rank](
            len(weight), weight.shape[1] * groups, tuple(weight.shape[2:]), tuple(w["stride"]), tuple(w["padding"]),
            tuple(node.get("output_padding") or [0] * rank), groups, bias is not None, tuple(w["dilation"]),
        )  # fmt: skip
    return _filled(layer, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return _filled(layer, weight.contiguous(), bias)


def gemm(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    weight, bias = _weight(node, constants, 2)
    if node.get("transA", 0):
        raise Unsupported("transA=1: the batch is the last dimension; export it with the batch first")
    weight = (weight if node.get("transB", 0) else weight.T) * node.get("alpha", 1.0)
    if bias is not None:
        bias = (bias * node.get("beta", 1.0)).expand(len(weight)) if bias.numel() in (1, len(weight)) else bias
    return _linear(weight, None if bias is None else bias.contiguous())


def matmul(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module | None:
    weight = constants[1]
    return _linear(weight.T, None) if isinstance(weight, Tensor) and weight.dim() == 2 and constants[0] is None else None


def batch_norm(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    if node.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise Unsupported("it is in training mode. Export the network in evaluation mode (model.eval())")
    if not all(isinstance(c, Tensor) and c.dim() == 1 for c in constants[1:5]) or len(constants) < 5:
        raise Unsupported("its parameters are not constants of one dimension")
    gain, offset, mean, variance = constants[1:5]
    layer = Norm(len(gain), node.get("epsilon", 1e-5))  # type: ignore[arg-type]
    layer.running_mean, layer.running_var = mean, variance  # type: ignore[assignment]
    return _filled(layer, gain, offset).eval()  # type: ignore[arg-type]


def prelu(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    slope = constants[1]
    if not isinstance(slope, Tensor) or (slope.dim() and slope.numel() not in (1, slope.shape[0])):
        raise Unsupported("its slope is not a constant of one value, or of one per channel")
    layer = nn.PReLU(slope.numel())
    layer.weight = nn.Parameter(slope.reshape(-1))
    return layer


def clip(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    bounds: list[float | None] = [node.get("min"), node.get("max")]
    for i, name in enumerate(node.inputs[1:3]):
        if name:
            bound = constants[i + 1]
            if bound is None or math.prod(bound.shape) != 1:
                raise Unsupported("its bounds are not constants")
            bounds[i] = float(bound.reshape(-1)[0])
    low, high = bounds
    if low == 0 and (high is None or high > 3e38):
        return nn.ReLU()
    return (
        nn.ReLU6()
        if (low, high) == (0, 6)
        else nn.Hardtanh(-torch.inf if low is None else low, torch.inf if high is None else high)
    )


def max_pool(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    kernel = node.get("kernel_shape") or []
    if len(kernel) not in MAXIMA or node.get("storage_order", 0) or len([name for name in node.outputs if name]) > 1:
        raise Unsupported("kernels have one to three dimensions, and the indices of the maxima are not made")
    w = _window(node, len(kernel), kernel)
    layer = MAXIMA[len(kernel)](
        tuple(kernel), tuple(w["stride"]), tuple(w["padding"]), tuple(w["dilation"]), ceil_mode=bool(node.get("ceil_mode", 0))
    )
    return _padded(layer, w, -torch.inf)


def average_pool(node: OnnxNode, constants: Sequence[Value | None]) -> nn.Module:
    kernel = node.get("kernel_shape") or []
    if len(kernel) not in (1, 2):
        raise Unsupported("kernels have one or two dimensions")
    w = _window(node, len(kernel), kernel)
    inside = bool(node.get("count_include_pad", 0))
    if set(w["dilation"]) != {1} or (w["pads"] is not None and not inside):
        raise Unsupported("a dilation, or pads that differ from side to side and do not count; export it with equal pads")
    make = nn.AvgPool1d if len(kernel) == 1 else nn.AvgPool2d
    return _padded(make(tuple(kernel), tuple(w["stride"]), tuple(w["padding"]), bool(node.get("ceil_mode", 0)), inside), w)  # type: ignore[arg-type]


def _plain(make: Callable[[OnnxNode], nn.Module]) -> Callable[[OnnxNode, Sequence[Value | None]], nn.Module]:
    return lambda node, constants: make(node)


WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
LAYERS: dict[str, tuple[Callable[[OnnxNode, Sequence[Value | None]], nn.Module | None], tuple[str, ...]]] = {
    "Conv": (conv, (*WINDOW, "group")),
    "ConvTranspose": (conv_transpose, (*WINDOW, "group", "output_padding", "output_shape")),
    "Gemm": (gemm, ("alpha", "beta", "transA", "transB")),
    "MatMul": (matmul, ()),
    "BatchNormalization": (batch_norm, ("epsilon", "momentum", "training_mode", "spatial")),
    "PRelu": (prelu, ()),
    "Clip": (clip, ("min", "max")),
    "MaxPool": (max_pool, (*WINDOW, "ceil_mode", "storage_order")),
    "AveragePool": (average_pool, (*WINDOW, "ceil_mode", "count_include_pad")),
    "Relu": (_plain(lambda n: nn.ReLU()), ()),
    "LeakyRelu": (_plain(lambda n: nn.LeakyReLU(n.get("alpha", 0.01))), ("alpha",)),
    "Sigmoid": (_plain(lambda n: nn.Sigmoid()), ()),
    "Tanh": (_plain(lambda n: nn.Tanh()), ()),
    "HardSwish": (_plain(lambda n: nn.Hardswish()), ()),
    "Elu": (_plain(lambda n: nn.ELU(n.get("alpha", 1.0))), ("alpha",)),
    "Selu": (_plain(lambda n: nn.SELU()), ()),
    "Softplus": (_plain(lambda n: nn.Softplus()), ()),
    "Softsign": (_plain(lambda n: nn.Softsign()), ()),
    "Mish": (_plain(lambda n: nn.Mish()), ()),
    "Gelu": (_plain(lambda n: nn.GELU(n.get("approximate", "none"))), ("approximate",)),
}
"""By operator: what makes the layer (None where it is none), and the attributes that it knows."""
