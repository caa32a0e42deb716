"""Which FPGA family elaboration is for."""

from dataclasses import dataclass

from ...spec.errors import SordinoError

__all__ = ["FAMILIES", "Target", "family_of"]

FAMILIES = ("generic", "ecp5", "ice40")
"""`generic` is plain Amaranth; `ecp5` is Lattice ECP5; `ice40` is Lattice iCE40 UltraPlus (UP5K)."""


@dataclass(frozen=True)
class Target:
    """The `platform` of an elaboration that builds no board: nothing but the family.

    Raises `SordinoError` for an unknown family.
    """

    family: str = "generic"

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise SordinoError(f"unknown FPGA family {self.family!r}: the families are {', '.join(FAMILIES)}")


def family_of(platform) -> str:
    """The family of what `elaborate` was given: a `Target`, a platform of Amaranth's, or None for `generic`."""
    name = getattr(platform, "family", "generic")
    return "ice40" if name.startswith("iCE40") else Target(name).family
