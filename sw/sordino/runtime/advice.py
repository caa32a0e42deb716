"""From predicted cycles to advice: which layer costs most, and what would make it cheaper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sordino_compiler.estimate import LayerEstimate

__all__ = ["Advice", "advise"]

SENSITIVE = 0.8
"""A layer is worth making sparser if its cycles at the lower density are at most this part of those at the higher."""


@dataclass(frozen=True)
class Advice:
    """The layer that costs most at an assumed density."""

    layer: str
    share: float
    """Its part of the network's cycles."""
    bound: str
    text: str
    """What limits it, and what would help."""


def advise(estimates: Mapping[float, Sequence[LayerEstimate]], density: float, lower: float) -> Advice:
    """About the layer with most cycles at `density`; `lower` is the density whose cycles show what sparsity is worth."""
    layers = estimates[density]
    worst = max(range(len(layers)), key=lambda i: layers[i].cycles)
    now, sparser = layers[worst], estimates[lower][worst]
    total = sum(e.cycles for e in layers)
    ratio = sparser.cycles / now.cycles if now.cycles else 1.0
    if ratio <= SENSITIVE:
        text = f"a sparser input helps: at density {lower:g} it takes {sparser.cycles:,.0f} of {now.cycles:,.0f} cycles"
        if sparser.bound != "events":
            text += f", below that {_LIMITS[sparser.bound]}"
    else:
        text = f"{_LIMITS[now.bound]}, so a sparser input hardly helps; {_REMEDIES[now.bound]}"
    return Advice(now.name, now.cycles / total if total else 0.0, now.bound, text)


_LIMITS = {
    "events": "the multiplications themselves take the time",
    "spans": "visiting every tap of every output takes the time",
    "words": "reading activation words takes the time",
    "drain": "requantising and storing the outputs takes the time",
}
_REMEDIES = {
    "events": "fewer output channels or pruned weight words do",
    "spans": "fewer outputs (a stride, a smaller image) or a smaller kernel do",
    "words": "input channels that fill whole words (a multiple of the lanes), or fewer pixels, do",
    "drain": "fewer outputs (a stride before it, fewer channels) or more work for each output (wider inputs) do",
}
