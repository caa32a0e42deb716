"""Every network by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sordino_hw.spec.errors import InputError

__all__ = ["IMAGENET", "Entry", "add", "entry", "model", "names"]


IMAGENET = "RGB, normalised"
"""What networks trained on ImageNet mostly expect: 0 to 1, less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)."""


@dataclass(frozen=True)
class Entry:
    """One network of the zoo."""

    name: str
    network: Callable[..., nn.Module]
    fixed: Mapping[str, Any]
    """Arguments of `network` that make it this variant."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the input that its published figures are for."""
    source: str
    """The project whose parameter names it has."""
    paper: str
    inputs: str
    """What its published checkpoints expect."""
    array: Mapping[str, Any] = field(default_factory=dict)
    """Options with which every operator is one that the array has; empty if the defaults are."""

    @property
    def options(self) -> list[str]:
        """What `model` takes beside the name."""
        return [p for p in inspect.signature(self.network).parameters if p not in self.fixed]


_ENTRIES: dict[str, Entry] = {}


def add(found: Entry) -> None:
    """Makes a network known."""
    _ENTRIES[found.name] = found


def names() -> list[str]:
    """The networks, sorted."""
    return sorted(_ENTRIES)


def entry(name: str) -> Entry:
    """What is known of a network. Raises `InputError` for an unknown name."""
    if name not in _ENTRIES:
        raise InputError(f"unknown network {name!r}: the zoo has {', '.join(names())}")
    return _ENTRIES[name]


def model(name: str, **options: Any) -> nn.Module:
    """A new network with random weights, in training mode; `options` are arguments of its class, such as `num_classes`.

    Raises `InputError` for an unknown name or option, and for a value out of range.
    """
    found = entry(name)
    for option in options:
        if option not in found.options:
            raise InputError(f"{name} has no option {option!r}; its options are {', '.join(found.options)}")
    return found.network(**found.fixed, **options)
