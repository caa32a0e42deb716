"""Memories, multipliers, adders and register copies: the only gateware that knows which FPGA it is built for.

Each component has one interface and a form for each family (`Generic`, `Ecp5`, `Ice40`). The form follows from the `platform` that
elaboration carries (see `Target`); without one it is plain Amaranth, as simulators take it.
"""

from .arithmetic import Accumulators, DigitProduct, FusedAdder, MaskedAdder, Multiplier, MultiplierArray
from .copies import copies
from .ecp5 import Ecp5
from .family import Family, Target, register
from .generic import Generic
from .ice40 import Ice40
from .logic import SERIALISER_LATENCY, Buffer, Gate, Serialiser
from .memories import BitMemory, BlockMemory, DualReadMemory, SinglePortMemory, SmallMemory

__all__ = [
    "SERIALISER_LATENCY",
    "Accumulators",
    "BitMemory",
    "BlockMemory",
    "Buffer",
    "DigitProduct",
    "DualReadMemory",
    "Family",
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

register(Generic(), Ecp5(), Ice40())
