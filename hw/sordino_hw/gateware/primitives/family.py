"""FPGA families: which one elaboration is for, and what builds its primitives."""

from dataclasses import dataclass
from typing import Protocol

from amaranth.hdl import Module

from ...spec.errors import SordinoError

__all__ = ["Family", "Target", "family_of", "register"]


class Family(Protocol):
    """Builds the inside of each primitive `c` of this package for one FPGA family.

    The forms of all families agree cycle for cycle, except where a primitive's docstring says that a value is undefined.
    """

    name: str

    def block_memory(self, c) -> Module: ...
    def bit_memory(self, c) -> Module: ...
    def single_port_memory(self, c) -> Module: ...
    def dual_read_memory(self, c) -> Module: ...
    def small_memory(self, c) -> Module: ...
    def buffer(self, c) -> Module: ...
    def gate(self, c) -> Module: ...
    def serialiser(self, c) -> Module: ...
    def multiplier_array(self, c) -> Module: ...
    def fused_adder(self, c) -> Module: ...
    def masked_adder(self, c) -> Module: ...
    def digit_product(self, c) -> Module: ...
    def accumulators(self, c) -> Module: ...


_FAMILIES: dict[str, Family] = {}


def register(*families: Family) -> None:
    """Makes families known by their names: to `Target`, and to every elaboration."""
    _FAMILIES.update({family.name: family for family in families})


@dataclass(frozen=True)
class Target:
    """The `platform` of an elaboration that builds no board: nothing but the family.

    Raises `SordinoError` for an unknown family.
    """

    family: str = "generic"

    def __post_init__(self):
        if self.family not in _FAMILIES:
            raise SordinoError(f"unknown FPGA family {self.family!r}: the families are {', '.join(_FAMILIES)}")


def family_of(platform) -> Family:
    """The family of what `elaborate` was given: a `Target`, a platform of Amaranth's, or None for the generic one."""
    name = getattr(platform, "family", "generic")
    return _FAMILIES["ice40" if name.startswith("iCE40") else Target(name).family]
