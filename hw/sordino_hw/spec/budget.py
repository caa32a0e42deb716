"""What it takes at most to run a program, from its registers alone: a few kilobytes can ask for hours, or for all memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arch import ArchConfig
from .asm import Step, decode_segment
from .errors import BinaryError
from .isa import Flag, Opcode

if TYPE_CHECKING:
    from .program import Program

__all__ = ["BYTES", "HOST", "STEPS", "Cost", "cost", "require_budget"]

STEPS = 10**9
"""Steps of one image that a program may take by default: minutes of the timing model."""
HOST = 10**10
"""Element operations of the host's steps that an image may take by default: some tens of seconds of NumPy."""
BYTES = 8 << 30
"""Bytes of memory that the models of a program may take by default."""


@dataclass(frozen=True)
class Cost:
    """Upper bounds for one image on the golden or the timing model. The RTL takes at most `lanes` cycles a step."""

    steps: int
    """Words that are read, spans that are looked at, and rows that are stored."""
    memory: int
    """Bytes: memories of the machine, the largest arrays of any operation, and the host steps' values."""
    host: int = 0
    """Element operations of the host's steps."""


def cost(program: "Program") -> Cost:
    """The bound of a program whose instruction streams do not trap."""
    steps = memory = 0
    for segment in program.segments:
        for step in decode_segment(segment.imem, program.arch):
            if step.opcode in (Opcode.CONV, Opcode.VEC):
                of_operation = _operation(step, program.arch)
                steps, memory = steps + of_operation.steps, max(memory, of_operation.memory)
    memory += _memories(program.arch)
    if program.host is None:
        return Cost(steps, memory)
    host, kinds = program.host, program.host_kinds()
    return Cost(steps, memory + host.image_bytes(kinds) * host.chunk(kinds), host.work(kinds))


def require_budget(program: "Program", limit: float) -> None:
    """Raises `BinaryError` for a program that takes over `limit` times `STEPS` or `BYTES`."""
    takes = cost(program)
    needed = max(takes.steps / STEPS, takes.memory / BYTES, takes.host / HOST)
    if needed > limit:
        raise BinaryError(
            f"The program may take {takes.steps:.3g} steps an image (words read, spans and outputs), {takes.host:.3g} element operations of "
            f"the host and {takes.memory / (1 << 30):.3g} GiB: {needed:.3g} times what is allowed without being asked for ({STEPS:.0e} steps, "
            f"{HOST:.0e} element operations, {BYTES >> 30} GiB). If you trust it and can "
            f"wait, give --limit {-int(-needed // 1)}, or limit={-int(-needed // 1)} in Python; else compile a smaller model."
        )


def _operation(step: Step, arch: ArchConfig) -> Cost:
    """One operation, as if every word that its registers name were in bounds."""
    r, lanes = step.regs, arch.lanes
    outputs, spans, pixels = r["OH"] * r["OW"], r["KH"] * r["KX"], r["KX"] * r["SPAN"]
    taps = r["KH"] * pixels * r["WORDS"]
    residuals = r["SLICES"] * step.has(Flag.RESIDUAL)
    steps = outputs * (spans + taps * r["SLICES"] + residuals + r["DRAIN"])
    memory = 9 * (r["OH"] * r["KH"] + r["OW"] * pixels * (1 + r["WORDS"])) + 32 * outputs * r["SLICES"]
    if step.opcode is Opcode.CONV:  # its matrix, as integers and as floats, and its masks
        memory += taps * lanes * (16 * r["SLICES"] * lanes + 8 + r["SLICES"])
    return Cost(steps, memory)


def _memories(a: ArchConfig) -> int:
    """Bytes of a machine's memories, and of how often each activation is used."""
    activations = a.act_depth * (a.lanes * (2 + 8 + 8) + a.lanes // 8 + 1)
    weights = a.cores * (a.weight_depth + 2 * a.mask_depth) * a.lanes
    rows = 4 * a.cores * a.ppu * (4 * a.param_depth + a.state_depth)
    return activations + weights + rows + 4 * a.imem_depth
