"""Random models that a user might have written: plausible blocks of supported operators, in many spellings, for hypothesis.

A model is a list of blocks, each a name and a seed, so that hypothesis shrinks it by leaving blocks out. A block builds its
modules for the shape that it finds, and is left out where it does not apply.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = ["BLOCKS", "HEADS", "STEMS", "Model", "Recipe", "build", "recipes"]

Build = Callable[[random.Random, tuple[int, int, int]], nn.Module | None]
BLOCKS: dict[str, Build] = {}
STEMS: dict[str, Build] = {}
HEADS: dict[str, Build] = {}

ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Hardswish,
    nn.GELU,
    nn.ELU,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Mish,
    nn.Softsign,
    nn.PReLU,
    lambda: nn.LeakyReLU(0.1),
    lambda: nn.Hardtanh(-0.5, 2.0),
    lambda: nn.Threshold(0.1, 0.0),
    lambda: Fn(torch.relu),
    lambda: Fn(F.relu6),
    lambda: Fn(lambda x: x.clamp(min=0)),
    lambda: Fn(lambda x: x.clamp(-1, 1.5)),
    lambda: Fn(lambda x: x * torch.sigmoid(x)),
    lambda: Fn(lambda x: x * F.relu6(x + 3) / 6),
    lambda: Fn(lambda x: torch.where(x > 0, x, 0.2 * x)),
    lambda: Fn(lambda x: torch.maximum(x, torch.zeros_like(x))),
    lambda: Fn(lambda x: x.abs()),
    lambda: Fn(lambda x: 1 - 0.5 * x),
]


class Fn(nn.Module):
    """A function as a module; the layers given by name are arguments behind the input."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module):
        super().__init__()
        self.function, self.names = function, list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


def block(function: Build) -> Build:
    BLOCKS[function.__name__] = function
    return function


def stem(function: Build) -> Build:
    STEMS[function.__name__] = function
    return function


def head(function: Build) -> Build:
    HEADS[function.__name__] = function
    return function


def activation(rng: random.Random) -> nn.Module:
    return rng.choice(ACTIVATIONS)() if rng.random() < 0.5 else nn.ReLU()


def conv(rng: random.Random, c: int, out: int, kernel: int | None = None, **options) -> nn.Module:
    k = rng.choice([1, 3]) if kernel is None else kernel
    layer = nn.Conv2d(c, out, k, padding=k // 2, bias=rng.random() < 0.5, **options)
    if rng.random() < 0.6:
        return nn.Sequential(layer, nn.BatchNorm2d(out))
    return layer


# -- stems: what stands before the first convolution -------------------------------------------------------------------


@stem
def plain(rng, shape):
    return nn.Identity()


@stem
def scaled(rng, shape):
    return Fn(rng.choice([lambda x: x / 2, lambda x: (x - 0.5) * 4, lambda x: 2 * x - 1]))


@stem
def normalised(rng, shape):
    c = shape[0]
    layer = nn.Identity()
    layer.register_buffer("mean", torch.linspace(-0.2, 0.3, c).view(1, c, 1, 1))
    layer.register_buffer("std", torch.linspace(0.5, 1.5, c).view(1, c, 1, 1))
    return Fn(lambda x, n: (x - n.mean) / n.std, n=layer)


@stem
def norm_first(rng, shape):
    return nn.BatchNorm2d(shape[0])


@stem
def colour_order(rng, shape):
    return Fn(rng.choice([lambda x: x.flip(1), lambda x: x[:, list(range(x.shape[1]))[::-1]]]))


# -- blocks ------------------------------------------------------------------------------------------------------------


@block
def convolution(rng, shape):
    return nn.Sequential(conv(rng, shape[0], rng.choice([4, 8, 12, 17])), activation(rng))


@block
def strided(rng, shape):
    if min(shape[1:]) < 4:
        return None
    return nn.Sequential(nn.Conv2d(shape[0], rng.choice([8, 12]), rng.choice([2, 3, 5]), 2, padding=1), activation(rng))


@block
def dilated(rng, shape):
    if min(shape[1:]) < 5:
        return None
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=2, dilation=2), activation(rng))


@block
def grouped(rng, shape):
    groups = next((g for g in (4, 2) if shape[0] % g == 0), None)
    return groups and nn.Sequential(
        conv(rng, shape[0], 2 * shape[0] if shape[0] <= 8 else shape[0], 3, groups=groups), activation(rng)
    )


@block
def separable(rng, shape):
    c = shape[0]
    return nn.Sequential(conv(rng, c, c, 3, groups=c), activation(rng), conv(rng, c, rng.choice([8, 12]), 1))


@block
def bottleneck(rng, shape):
    c = shape[0]
    body = nn.Sequential(conv(rng, c, 8, 1), activation(rng), conv(rng, 8, 8, 3, groups=8), nn.ReLU6(), conv(rng, 8, c, 1))
    return Fn(lambda x, f: x + f(x), f=body)


@block
def residual(rng, shape):
    body = nn.Sequential(conv(rng, shape[0], shape[0], 3), activation(rng), conv(rng, shape[0], shape[0], 3))
    sign = rng.choice([1, -1, 0.5])
    return Fn(lambda x, f, a: a(torch.add(x, f(x), alpha=sign)), f=body, a=activation(rng))


@block
def pre_activation(rng, shape):
    body = nn.Sequential(nn.BatchNorm2d(shape[0]), nn.ReLU(), conv(rng, shape[0], shape[0], 3))
    return Fn(lambda x, f: x + f(x), f=body)


@block
def dense(rng, shape):
    if shape[0] > 24:
        return None
    return Fn(lambda x, f: torch.cat([x, f(x)], 1), f=nn.Sequential(nn.BatchNorm2d(shape[0]), nn.ReLU(), conv(rng, shape[0], 4, 3)))


@block
def branches(rng, shape):
    a, b = conv(rng, shape[0], 8, 1), nn.Sequential(conv(rng, shape[0], 8, 3), activation(rng))
    join = rng.choice([lambda p, q: torch.cat((p, q), 1), torch.maximum, torch.minimum, lambda p, q: p - q])
    return Fn(lambda x, a, b: join(a(x), b(x)), a=a, b=b)


@block
def pooling(rng, shape):
    h, w = shape[1:]
    if min(h, w) < 3:
        return None
    return rng.choice(
        [
            lambda: nn.MaxPool2d(2),
            lambda: nn.MaxPool2d(3, 2, 1),
            lambda: nn.MaxPool2d(2, ceil_mode=True),
            lambda: nn.AvgPool2d(2),
            lambda: nn.AvgPool2d(3, 1, 1),
            lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            lambda: nn.AdaptiveAvgPool2d((max(1, h // 2), max(1, w // 3))),
            lambda: nn.AdaptiveMaxPool2d(2),
        ]
    )()


@block
def upsampling(rng, shape):
    if max(shape[1:]) > 8:
        return None
    return rng.choice(
        [
            lambda: nn.Upsample(scale_factor=2),
            lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
            lambda: nn.ConvTranspose2d(shape[0], 8, 2, 2),
            lambda: nn.ConvTranspose2d(shape[0], 8, 3, 2, padding=1, output_padding=1),
        ]
    )()


@block
def pixel_shuffle(rng, shape):
    c, h, w = shape
    if c % 4 == 0 and max(h, w) <= 8:
        return nn.PixelShuffle(2)
    return nn.PixelUnshuffle(2) if h % 2 == w % 2 == 0 and c <= 8 else None


@block
def channel_shuffle(rng, shape):
    c, h, w = shape
    return None if c % 2 else Fn(lambda x: x.view(-1, 2, c // 2, h, w).transpose(1, 2).reshape(-1, c, h, w))


@block
def padded(rng, shape):
    if min(shape[1:]) < 3:
        return None
    return rng.choice(
        [
            lambda: nn.ZeroPad2d((1, 0, 2, 1)),
            lambda: nn.ReflectionPad2d(1),
            lambda: nn.ReplicationPad2d((1, 1, 0, 2)),
            lambda: nn.ConstantPad2d(1, 0.5),
            lambda: Fn(lambda x: F.pad(x, (-1, 0, 0, -1))),
        ]
    )()


@block
def indexed(rng, shape):
    c, h, w = shape
    if min(h, w) < 4 or c < 2:
        return None
    return Fn(
        rng.choice(
            [
                lambda x: x[:, ::2],
                lambda x: x[:, 1:],
                lambda x: x[:, :, 1:-1],
                lambda x: x[:, :, :, ::2],
                lambda x: x.flip(3),
                lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1) if h % 2 == w % 2 == 0 else x,
                lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
            ]
        )
    )


@block
def split_and_join(rng, shape):
    c = shape[0]
    if c % 2:
        return None
    return Fn(
        lambda x, f: torch.cat((x[:, : c // 2], f(x[:, c // 2 :])), 1),
        f=nn.Sequential(conv(rng, c // 2, c // 2, 3), activation(rng)),
    )


@block
def constants(rng, shape):
    c, h, w = shape
    layer = nn.Identity()
    layer.offset = nn.Parameter(torch.randn(rng.choice([(1, c, 1, 1), (c, 1, 1), (1, c, h, w), (1,)])) * 0.3)
    layer.gain = nn.Parameter(torch.rand(c, 1, 1) + 0.5)
    return Fn(lambda x, n: x * n.gain + n.offset, n=layer)


@block
def channels_last(rng, shape):
    c = shape[0]
    return Fn(lambda x, f: f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), f=nn.Sequential(nn.Linear(c, 8), activation(rng)))


@block
def smooth(rng, shape):
    return activation(rng)


@block
def dropout(rng, shape):
    return rng.choice([nn.Dropout(0.2), nn.Dropout2d(0.2), nn.Identity()])


# -- heads -------------------------------------------------------------------------------------------------------------


@head
def classifier(rng, shape):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], 5))


@head
def mlp(rng, shape):
    c, h, w = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


@head
def means(rng, shape):
    reduce = rng.choice([lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3)), lambda x: x.mean(3).mean(2)])
    return Fn(lambda x, f: f(reduce(x)), f=nn.Linear(shape[0], 4))


@head
def map_of_logits(rng, shape):
    return nn.Conv2d(shape[0], 3, 1)


@head
def binary(rng, shape):
    end = rng.choice([lambda y: y.squeeze(1), lambda y: y.view(-1), lambda y: y.flatten(), lambda y: torch.sigmoid(y)[:, 0]])
    return Fn(lambda x, f: end(f(x)), f=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], 1)))


@head
def probabilities(rng, shape):
    end = rng.choice([lambda y: y.softmax(1), lambda y: F.log_softmax(y, 1), lambda y: y.argmax(1)])
    return Fn(lambda x, f: end(f(x)), f=nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(1), nn.Linear(shape[0], 5)))


@head
def several(rng, shape):
    form = rng.choice([lambda a, b: (a, b), lambda a, b: {"box": a, "score": b}, lambda a, b: [a, (b, a)]])
    return Fn(lambda x, a, b: form(a(x), b(x)), a=conv(rng, shape[0], 4, 1), b=nn.Conv2d(shape[0], 2, 3, padding=1))


@dataclass(frozen=True)
class Recipe:
    """Names and seeds of the blocks of a model."""

    stem: tuple[str, int]
    blocks: tuple[tuple[str, int], ...]
    head: tuple[str, int]
    shape: tuple[int, int, int]


class Model(nn.Module):
    """Stem, blocks and head of a recipe, one after the other."""

    def __init__(self, parts: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor):
        for part in self.parts:
            x = part(x)
        return x


def build(recipe: Recipe) -> tuple[Model, Tensor]:
    """The model in evaluation mode with norms' statistics from data, and that data: float [24, c, h, w]."""
    torch.manual_seed(recipe.stem[1])
    x, parts = torch.randn(24, *recipe.shape) + 0.2, []
    y = x[:2]
    for table, (name, seed) in [(STEMS, recipe.stem), *((BLOCKS, b) for b in recipe.blocks), (HEADS, recipe.head)]:
        part = table[name](random.Random(seed), tuple(y.shape[1:]))
        if part is not None:
            y = part.eval()(y).detach() if table is not HEADS else y
            parts.append(part)
    model = Model(parts)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    with torch.no_grad():
        model.train()(x)
    return model.eval(), x


def recipes() -> st.SearchStrategy[Recipe]:
    seeds = st.integers(0, 999)
    return st.builds(
        Recipe,
        st.tuples(st.sampled_from(sorted(STEMS)), seeds),
        st.lists(st.tuples(st.sampled_from(sorted(BLOCKS)), seeds), min_size=1, max_size=6).map(tuple),
        st.tuples(st.sampled_from(sorted(HEADS)), seeds),
        st.tuples(st.sampled_from([1, 3, 4]), st.integers(6, 12), st.integers(6, 12)),
    )
