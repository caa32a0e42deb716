"""The programs whose instructions and memory images are recorded: small models, each with an architecture and options.

Weights and inputs are multiples of powers of two, drawn by seeded generators, so that the sums behind a calibration are the
same in whatever order a processor adds them up.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sordino as sd
from random_layers import random_case
from sordino import ArchConfig, zoo
from sordino.experiments.tasks import DIGITS
from sordino.nn import round_to_step, threshold_relu
from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.mapping import Mapping

__all__ = ["PROGRAMS", "SLOW", "digests"]

ARCHS: dict[str, ArchConfig] = sd.PRESETS | {
    "one of 64": ArchConfig(name="one of 64", lanes=64, ppu=16, mantissa_bits=6),
    "two of 24": ArchConfig(name="two of 24", cores=2, ports=2, lanes=24, ppu=4, weight_depth=600, state_depth=128, tables=2),
    "two of 16": ArchConfig(name="two of 16", cores=2, lanes=16, ppu=1, mantissa_bits=8, imem_depth=512, occ_width=16),
    "four of 16": ArchConfig(name="four of 16", cores=4, ports=4, lanes=16, ppu=16, mantissa_bits=2, tables=16),
    "eight of 8": ArchConfig(name="eight of 8", cores=8, ports=2, lanes=8, event_bits=8, ppu=4, wide_cycles=2, act_depth=8192),
    "icebreaker, more memory": sd.PRESETS["icebreaker"].replace(act_depth=4096, imem_depth=1024, name="icebreaker, more memory"),
    "room": ArchConfig(name="room", cores=4, ports=2, act_depth=1 << 15, weight_depth=1 << 14, mask_depth=2048, imem_depth=1 << 14),
}


# -- digest ------------------------------------------------------------------------------------------------------------


def digests(program: sd.Program) -> dict[str, Any]:
    """What a program does, part by part: counts, and digests of 16 hexadecimal digits.

    `instructions`, `images` and `parameters` are what a host loads into the memories and the array executes. `operations` are
    the limits and products that go with them, `tensors` the addresses and scales by which values are exchanged, `layers` the
    rows of a report. The container's encoding, the architecture's hash, `meta`, the kinds of layers and the lines of source
    code that they come from are left out.
    """
    segments = program.segments
    return {
        "words": sum(len(s.imem) for s in segments),
        "instructions": _digest(s.imem for s in segments),
        "images": _digest(image for s in segments for image in (s.weight, s.mask, s.table)),
        "parameters": _digest(image for s in segments for image in (s.bias, s.mantissa, s.shift, s.threshold)),
        "operations": _digest(
            np.array(numbers) for s in segments for numbers in ([s.cycle_limit], *([o.layer, *o.macs_per_event] for o in s.ops))
        ),
        "tensors": _digest(
            (
                *(t.name, *t.shape, f"{t.scale:.6g}", t.signed),
                *(t.base, t.row_pitch, t.pixel_pitch, *t.slots, t.layer, t.kept, t.fold),
            )
            for t in program.tensors.values()
        ),
        "layers": _digest([(x.name, *x.inputs, x.output, x.macs) for x in program.layers] + [program.inputs, program.outputs]),
    }


def _digest(parts: Iterable[np.ndarray | Iterable]) -> str:
    """Of arrays, by shape and values whatever their width; and of rows of text and numbers."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr(part.shape).encode() + part.astype("<i8").tobytes())
        else:
            digest.update(repr([str(cell) for cell in part]).encode())
    return digest.hexdigest()[:16]


# -- models ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Layers by name, and a function of them and of the inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self.m = nn.ModuleDict(layers)
        self.function = function
        self.register_buffer("steps", torch.arange(1, 9) / 16)

    def forward(self, *x: Tensor) -> Any:
        return self.function(self, *x)


def conv(cin: int = 3, cout: int = 8, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, **{"padding": k // 2, **options})


def after(function: Callable[[Tensor], Tensor], **options: Any) -> Callable[[], nn.Module]:
    """A convolution, `function`, and another convolution."""
    return lambda: Net(lambda s, x: s.m["d"](function(s.m["c"](x))), c=conv(**options), d=conv(8, 4, 1))


def branches(*functions: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Several functions of one convolution's output, each followed by a convolution of its own: one output for each."""

    def forward(s: Net, x: Tensor) -> tuple[Tensor, ...]:
        y = s.m["c"](x)
        return tuple(s.m[f"d{i}"](f(y)) for i, f in enumerate(functions))

    return lambda: Net(forward, c=conv(), **{f"d{i}": conv(8, 4, 1) for i in range(len(functions))})


def drawn(shape: Iterable[int], seed: int, low: int, high: int, step: float) -> Tensor:
    """Multiples of `step` from `low * step` to `high * step`, both included."""
    return torch.randint(low, high + 1, tuple(shape), generator=torch.Generator().manual_seed(seed)) * step


@torch.no_grad()
def settle(model: nn.Module, seed: int, largest: int = 127) -> nn.Module:
    """Sets all parameters and statistics to fractions of powers of two, of a size that keeps activations from growing.

    Weights are multiples of such a fraction, up to `largest`. With less than 127, batch norms multiply by powers of two, so that
    the sums of several layers fit the 24 bits of a float's mantissa. Returns the model.
    """
    few = largest < 127
    for i, (name, p) in enumerate(sorted(model.named_parameters())):
        if p.dim() > 1:
            step = 2.0 ** -round(np.log2(largest * np.sqrt(p[0].numel()) / 2))
            p.copy_(drawn(p.shape, seed + i, -largest, largest, step))
        elif name.endswith("weight"):
            p.copy_(2.0 ** drawn(p.shape, seed + i, -1, 0, 1.0) if few else 1 + drawn(p.shape, seed + i, -8, 8, 2.0**-5))
        else:
            p.copy_(drawn(p.shape, seed + i, -4, 4, 2.0**-4))
    for i, (_, m) in enumerate(sorted(model.named_modules())):
        if isinstance(m, nn.BatchNorm2d):
            shape = m.running_var.shape
            m.running_mean.copy_(drawn(shape, seed + 1000 + i, -4, 4, 2.0**-4))
            m.running_var.copy_(
                4.0 ** drawn(shape, seed + 2000 + i, -1, 1, 1.0) if few else drawn(shape, seed + 2000 + i, 4, 16, 2.0**-3)
            )
            m.eps = 0.0 if few else m.eps
    return model.eval()


class Rounded(nn.Module):
    """A rectifier whose outputs are 16 steps, so that the sums of the next layer are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return round_to_step(x, self.step, 0, 15)


def rounded(model: nn.Module) -> nn.Module:
    """Puts `Rounded` in place of all activations. Returns the model."""
    for path, m in list(model.named_modules()):
        if isinstance(m, nn.ReLU | nn.ReLU6 | nn.SiLU):
            model.set_submodule(path, Rounded())
    return model


def inputs(shape: tuple[int, ...], signed: bool, seed: int = 1) -> Tensor:
    """A batch of inputs, a third of them zero: multiples of 1/8 below 2 in magnitude."""
    x = drawn(shape, seed, -15 if signed else 0, 15, 1 / 8)
    return x * (drawn(shape, seed + 1, 0, 2, 1.0) > 0)


OPERATORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d, pools of a length": (
        lambda: Net(
            lambda s, x: s.m["d"](F.adaptive_avg_pool1d(F.max_pool1d(F.relu(s.m["c"](x)), 2), 4) + F.avg_pool1d(s.m["e"](x), 4)),
            c=nn.Conv1d(3, 8, 3, padding=1), d=nn.Conv1d(8, 4, 1), e=nn.Conv1d(3, 8, 1),
        ), (3, 16),
    ),
    "strides, dilation, groups": (
        lambda: Net(
            lambda s, x: s.m["e"](s.m["r"](s.m["d"](s.m["r"](s.m["c"](x))))), r=Rounded(),
            c=nn.Conv2d(3, 12, (3, 5), (2, 1), (1, 2)), d=conv(12, 24, 3, groups=3, dilation=2, padding=2), e=conv(24, 5, 4, padding="same"),
        ), (3, 10, 9),
    ),
    "depthwise": (
        lambda: Net(
            lambda s, x: s.m["e"](F.relu6(s.m["d"](F.relu(s.m["c"](x))))),
            c=conv(3, 40), d=conv(40, 40, groups=40, stride=2), e=conv(40, 80, groups=40),
        ), (3, 9, 9),
    ),
    "linear behind a flatten": (
        lambda: Net(lambda s, x: s.m["m"](F.relu(s.m["l"](F.relu(s.m["c"](x)).flatten(1)))), c=conv(), l=nn.Linear(512, 40), m=nn.Linear(40, 10)),
        (3, 8, 8),
    ),
    "linear layers alone": (
        lambda: Net(lambda s, x: s.m["n"](F.relu(s.m["m"](F.relu(s.m["l"](x))))), l=nn.Linear(70, 40), m=nn.Linear(40, 33), n=nn.Linear(33, 3)),
        (70,),
    ),
    "batch norm, folded and alone": (
        lambda: Net(lambda s, x: F.relu(s.m["v"](F.max_pool2d(F.relu(s.m["b"](s.m["c"](x))), 2))), c=conv(bias=False), b=nn.BatchNorm2d(8), v=nn.BatchNorm2d(8)),
        (3, 8, 8),
    ),
    "constant factors and terms": (
        lambda: Net(
            lambda s, x: (
                F.max_pool2d(y := s.m["c"](x), 2) * 0.375 + 0.125,
                (F.max_pool2d(y, 4) - s.steps.view(8, 1, 1)) / s.steps.view(1, 8, 1, 1),
                1 - F.max_pool2d(-y, 2),
            ), c=conv(),
        ), (3, 8, 8),
    ),
    "input normalised in the model": (lambda: Net(lambda s, x: s.m["c"]((x - 0.5) / 0.25), c=conv()), (3, 8, 8)),
    "additions": (
        lambda: Net(
            lambda s, x: (F.relu(s.m["d"](y := F.relu(s.m["c"](x))) + y) - s.m["e"](x), F.max_pool2d(y, 2) - F.avg_pool2d(y, 2)),
            c=conv(), d=conv(8, 8), e=conv(3, 8, 1),
        ), (3, 8, 8),
    ),
    "clamps": (branches(F.relu, F.relu6, lambda y: F.hardtanh(y, -0.25, 0.5), lambda y: y.clamp(-0.125, 0.375), lambda y: y.clamp_min(-0.125), lambda y: y.clamp_max(0.5)), (3, 6, 6)),
    "silu, sigmoid": (branches(F.silu, torch.sigmoid), (3, 6, 6)),
    "hardswish, hardsigmoid, tanh": (branches(F.hardswish, F.hardsigmoid, torch.tanh), (3, 6, 6)),
    "leaky_relu, elu, gelu": (branches(lambda y: F.leaky_relu(y, 0.125), F.elu, F.gelu), (3, 6, 6)),
    "softplus, mish, abs, square": (branches(F.softplus, F.mish, torch.abs, torch.square), (3, 6, 6)),
    "one table, fused": (after(F.silu), (3, 8, 8)),
    "thresholds": (
        lambda: Net(
            lambda s, x: (
                s.m["d"](threshold_relu(y := s.m["c"](x), torch.tensor(0.25))),
                s.m["e"](threshold_relu(y, s.steps).clamp(max=1.0)),
                s.m["f"](F.threshold(y, 0.25, 0.0)),
            ), c=conv(), d=conv(8, 4), e=conv(8, 4), f=conv(8, 4),
        ), (3, 8, 8),
    ),
    "one threshold, fused": (after(lambda y: threshold_relu(y, torch.tensor(0.5))), (3, 8, 8)),
    "rounding to a step": (
        lambda: Net(lambda s, x: s.m["e"](round_to_step(s.m["d"](round_to_step(s.m["c"](x), torch.tensor(0.0625), 0, 15)), s.steps, 0, 15)), c=conv(), d=conv(8, 8), e=conv(8, 4)),
        (3, 8, 8),
    ),
    "max pooling": (
        lambda: Net(
            lambda s, x: (F.relu(F.max_pool2d(y := s.m["c"](x), 3, 2, 1)), F.max_pool2d(y, 3, 2, ceil_mode=True), F.max_pool2d(y, 2, 1, 0, 2)),
            c=conv(cout=20),
        ), (3, 9, 9),
    ),
    "average pooling": (
        lambda: Net(
            lambda s, x: (
                F.avg_pool2d(y := F.relu(s.m["c"](x)), 2), F.avg_pool2d(y, 3, 2, 1), F.adaptive_avg_pool2d(y, (4, 2)),
                y.mean((2, 3)), F.relu(F.adaptive_avg_pool2d(y, 1)),
            ), c=conv(cout=20),
        ), (3, 8, 8),
    ),
    "upsampling": (
        lambda: Net(
            lambda s, x: (
                s.m["d"](F.interpolate(y := F.relu(s.m["c"](x)), scale_factor=2)),
                s.m["e"](F.interpolate(y, scale_factor=(3, 2), mode="nearest-exact")),
            ), c=conv(stride=2), d=conv(8, 4), e=conv(8, 4),
        ), (3, 8, 8),
    ),
    "padding, folded and alone": (
        lambda: Net(lambda s, x: (s.m["d"](F.pad(y := s.m["c"](x), (1, 0, 2, 1))), F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 2)), c=conv(), d=conv(8, 4, padding=0)),
        (3, 8, 8),
    ),
    "cat and split": (
        lambda: Net(
            lambda s, x: (
                s.m["f"](torch.cat([F.relu(s.m["c"](x)), y := s.m["d"](x), (p := y.split([2, 6], 1))[1]], 1)) + s.m["e"](p[0]),
                torch.cat([y.chunk(2, 1)[1], y[:, 1:3], y.narrow(1, -2, 2), y.split(4, 1)[0]], 1),
            ), c=conv(), d=conv(), e=conv(2, 4), f=conv(22, 4),
        ), (3, 8, 8),
    ),
    "reshapes": (
        lambda: Net(
            lambda s, x: s.m["l"](
                s.m["c"](x).mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1).unsqueeze(2).view(-1, 8).unflatten(1, (8, 1, 1)).reshape(-1, 8).contiguous().clone().detach()
            ),
            c=conv(), l=nn.Linear(8, 3),
        ), (3, 8, 8),
    ),
    "dropout": (lambda: Net(lambda s, x: s.m["e"](s.m["p"](F.relu(s.m["c"](x)))).to(torch.float32), c=conv(), p=nn.Dropout2d(), e=conv(8, 4)), (3, 8, 8)),
    "channels beyond the lanes": (
        lambda: Net(lambda s, x: s.m["e"](F.relu(s.m["d"](F.relu(s.m["c"](x))))), c=conv(3, 150), d=conv(150, 100, 3, stride=2), e=conv(100, 37, 1)),
        (3, 10, 10),
    ),
    "an image of one channel": (lambda: Net(lambda s, x: s.m["d"](F.relu(s.m["c"](x))), c=conv(1, 16, 5), d=conv(16, 4, 1)), (1, 12, 13)),
}  # fmt: skip


# -- programs ----------------------------------------------------------------------------------------------------------


def quantised(model: nn.Module, x: Tensor, arch: str, **options: Any) -> sd.QuantizedModel:
    with torch.no_grad():
        return sd.quantize(model, x, ARCHS[arch], **options)


def operator(name: str, arch: str, signed: bool = False, **options: Any) -> sd.Program:
    make, shape = OPERATORS[name]
    model = settle(make(), sum(name.encode()))
    return sd.compile(quantised(model, inputs((8, *shape), signed), arch, method="minmax"), **options)


def digits(
    arch: str = "ulx3s-85f",
    signed: bool = False,
    *,
    change: Callable[[nn.Module, Tensor], nn.Module] | None = None,
    target: str | None = None,
    method: str = "minmax",
    quantile: float = 0.9999,
    **options: Any,
) -> sd.Program:
    """The digits network; `change` makes another model of it, given some inputs; `target` is what it is compiled for, if not `arch`."""
    x = inputs((16, 1, 8, 8), signed)
    model = settle(DIGITS.build(), 7, 1)
    model = model if change is None else change(model, x)
    found = quantised(model, x, arch, method=method, quantile=quantile)
    return sd.compile(found, arch=ARCHS[target or arch], **options)


def trained_quantised(pruned: float = 0.0) -> sd.Program:
    """Quantisation-aware: the ranges of one batch, then their running mean with a second one."""
    model = settle(DIGITS.build(), 8, 1)
    model = sd.prune(model, amount=pruned) if pruned else model
    qat = sd.prepare_qat(model, inputs((16, 1, 8, 8), False))
    with torch.no_grad():
        qat(inputs((16, 1, 8, 8), False, seed=3) * 1.25)
    return sd.compile(sd.finish_qat(qat))


def network(name: str, shape: tuple[int, ...], arch: str, signed: bool = True, compiling: dict | None = None, **options: Any):
    """A network of the zoo, its activations rounded, on small images."""
    model = settle(rounded(zoo.model(name, **options)), len(name), 7)
    return sd.compile(quantised(model, inputs((2, *shape), signed), arch, method="minmax"), **(compiling or {}))


def graph(seed: int, arch: ArchConfig | None = None, forced: bool | Mapping = False, **options: Any) -> sd.Program:
    """A random graph of layers, its mapping forced at random or as given."""
    case = random_case(seed, arch)
    mapping = forced if isinstance(forced, Mapping) else case.mapping if forced else None
    return compile_graph(case.graph, mapping=mapping, **options)


def _operators() -> dict[str, Callable[[], sd.Program]]:
    """Each on one architecture, in turns; every third one with inputs of both signs."""
    archs = ("ulx3s-85f", "ecp5-25f", "two of 16", "eight of 8", "icebreaker", "four of 16", "one of 64", "two of 24")
    programs: dict[str, Callable[[], sd.Program]] = {}
    for i, name in enumerate(OPERATORS):
        arch, signed = archs[i % len(archs)], i % 3 == 1
        programs[f"{name}, {arch}{', signed' * signed}"] = partial(operator, name, arch, signed)
    return programs


def _thresholds(model: nn.Module, x: Tensor) -> nn.Module:
    return sd.sparsify(model, "star", calibration=x, quantile=0.5).eval()


def _pruned(model: nn.Module, x: Tensor) -> nn.Module:
    return sd.finish_pruning(sd.prune(model, amount=0.7))


PROGRAMS: dict[str, Callable[[], sd.Program]] = _operators() | {
    "digits, ulx3s-85f": digits,
    "digits, ecp5-25f, signed": partial(digits, "ecp5-25f", True),
    "digits, icebreaker, more memory": partial(digits, "icebreaker, more memory"),
    "digits, eight of 8": partial(digits, "eight of 8"),
    "digits, two of 16, signed": partial(digits, "two of 16", True),
    "digits, dense": partial(digits, dense=True),
    "digits, icebreaker, more memory, dense": partial(digits, "icebreaker, more memory", dense=True),
    "digits, no memory reused": partial(digits, reuse=False),
    "max pooling, density 0.02": partial(operator, "max pooling", "ulx3s-85f", density=0.02),
    "max pooling, density 1": partial(operator, "max pooling", "ulx3s-85f", density=1.0),
    "depthwise, density 0.05": partial(operator, "depthwise", "ulx3s-85f", density=0.05),
    "additions, dense": partial(operator, "additions", "ulx3s-85f", dense=True),
    "digits, four of 16, density 0.02": partial(digits, "four of 16", density=0.02),
    "digits, scales by squared error": partial(digits, method="mse"),
    "digits, scales by percentile": partial(digits, method="percentile", quantile=0.99),
    "digits, icebreaker, more memory, scales by squared error": partial(digits, "icebreaker, more memory", method="mse"),
    "digits, thresholds": partial(digits, change=_thresholds),
    "digits, ecp5-25f, thresholds": partial(digits, "ecp5-25f", change=_thresholds),
    "digits, pruned": partial(digits, change=_pruned),
    "digits, ecp5-25f, pruned": partial(digits, "ecp5-25f", change=_pruned),
    "digits, compiled for another core than quantised for": partial(digits, "ulx3s-85f", target="ecp5-25f"),
    "digits, quantised in training": trained_quantised,
    "digits, quantised in training, pruned": partial(trained_quantised, 0.5),
    "mobilenet_v2, room": partial(network, "mobilenet_v2", (3, 32, 32), "room", width_mult=0.25, num_classes=10),
    "mobilenet_v1, ulx3s-85f, density 0.2": partial(
        network, "mobilenet_v1", (3, 32, 32), "ulx3s-85f", {"density": 0.2}, width_mult=0.25, num_classes=10
    ),
    "pilotnet, room, dense": partial(network, "pilotnet", (3, 66, 200), "room", {"dense": True}),
    "resnet18, room": partial(network, "resnet18", (3, 32, 32), "room", num_classes=10),
    **{f"random graph {seed}": partial(graph, seed) for seed in range(1, 9)},
    **{f"random graph {seed}, random mappings": partial(graph, seed, forced=True) for seed in range(11, 19)},
    "random graph 11, pixels not folded": partial(graph, 11, fold=False),
    "random graph 5, dense": partial(graph, 5, dense=True),
    "random graph 7, no memory reused": partial(graph, 7, reuse=False),
    **{f"random graph 9, ulx3s-85f, density {d:g}": partial(graph, 9, ARCHS["ulx3s-85f"], density=d) for d in (0.02, 0.5, 1.0)},
    "random graph 21, ulx3s-85f, one group of four": partial(graph, 21, ARCHS["ulx3s-85f"], Mapping(1, 4)),
    "random graph 22, ulx3s-85f, four groups, runs of 4": partial(graph, 22, ARCHS["ulx3s-85f"], Mapping(4, 1, 4, True)),
    "random graph 23, ecp5-25f": partial(graph, 23, ARCHS["ecp5-25f"]),
    "random graph 24, icebreaker": partial(graph, 24, ARCHS["icebreaker"]),
}
"""By name, which tells what is special: by default inputs are not negative and the architecture is ulx3s-85f."""

SLOW = ("mobilenet_v2, room", "resnet18, room")
"""Programs that take seconds each."""
