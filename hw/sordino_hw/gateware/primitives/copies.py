"""Registers that are deliberately doubled."""

from amaranth.hdl import Module, Signal

__all__ = ["copies"]


def copies(m: Module, value, count: int, name: str, *, init=0, reset_less: bool = False, domain: str = "sync") -> list:
    """`count` registers that all hold `value` as it was a cycle before, each for a share of a broadcast net's readers.

    Synthesis neither doubles a register by itself nor, where the flow has it heed `keep` (`fpga.flow`), merges these again. Where there is no reason
    to double (a simulation), the copies cost nothing but a few registers.
    """
    held = [Signal(value.shape(), name=f"{name}_{k}", init=init, reset_less=reset_less, attrs={"keep": 1}) for k in range(count)]
    m.d[domain] += [register.eq(value) for register in held]
    return held
