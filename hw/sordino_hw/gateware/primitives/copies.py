"""Fan-out buffers of registers."""

from amaranth.hdl import Module, Signal

__all__ = ["copies"]


def copies(m: Module, value, count: int, name: str, *, init=0, reset_less: bool = False) -> list:
    """`count` registers that all hold `value` of the cycle before, each for some of a broadcast net's readers.

    Synthesis does not duplicate a register by itself, and does not merge these: they have the attribute `keep` (see `fpga.flow`).
    """
    held = [Signal(value.shape(), name=f"{name}_{k}", init=init, reset_less=reset_less, attrs={"keep": 1}) for k in range(count)]
    m.d.sync += [register.eq(value) for register in held]
    return held
