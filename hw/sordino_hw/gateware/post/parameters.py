"""The parameters of an output channel, as they lie in the parameter memory."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from ...spec.arch import ArchConfig

__all__ = ["param_bits", "param_layout"]


def param_layout():
    """Parameters of one channel, as in `isa.PARAM_BITS`."""
    return data.StructLayout(
        {
            "bias": signed(32),
            "mantissa": unsigned(8),
            "shift": unsigned(5),
            "_1": 3,
            "threshold": unsigned(8),
            "_2": 8,
        }
    )


def param_bits(arch: ArchConfig, *names: str) -> list[int]:
    """Where the fields `names` are in a channel's parameters, as far as they mean something."""
    bits: list[int] = []
    for name in names:
        field = param_layout()[name]
        bits += range(field.offset, field.offset + (arch.mantissa_bits if name == "mantissa" else field.width))
    return bits
