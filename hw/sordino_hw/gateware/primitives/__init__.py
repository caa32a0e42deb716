"""Memories, multipliers, adders and register copies: the only gateware that knows which FPGA it is built for.

Each component has one interface and several forms. The form follows from the `platform` that elaboration carries (see
`family.Target`); without one it is plain Amaranth, as simulators take it. The forms agree cycle for cycle, except
where a component's docstring says that a value is undefined.
"""

from .components import (
    Accumulators,
    BitMemory,
    BlockMemory,
    Buffer,
    DigitProduct,
    DualReadMemory,
    FusedAdder,
    Gate,
    MaskedAdder,
    Multiplier,
    MultiplierArray,
    Serialiser,
    SinglePortMemory,
    SmallMemory,
)
from .copies import copies
from .family import FAMILIES, Target

__all__ = [
    "FAMILIES",
    "Accumulators",
    "BitMemory",
    "BlockMemory",
    "Buffer",
    "DigitProduct",
    "DualReadMemory",
    "FusedAdder",
    "Gate",
    "MaskedAdder",
    "Multiplier",
    "MultiplierArray",
    "Serialiser",
    "SinglePortMemory",
    "SmallMemory",
    "Target",
    "copies",
]
