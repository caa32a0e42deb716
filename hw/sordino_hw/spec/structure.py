"""Structure of the array that follows from an `ArchConfig`: what the gateware is built with and the models count with."""

from enum import IntEnum

from . import isa
from .arch import ArchConfig

__all__ = ["Kind", "fetchers_of", "job_depth", "output_depth", "reads_late", "sharing", "tag_bits"]


class Kind(IntEnum):
    """What the lanes do with an item."""

    EVENT = 0
    MAC = 1
    MAC2 = 2
    MAX = 3


def tag_bits(arch: ArchConfig) -> int:
    """Bits of an operation's tag: its number modulo the operations in flight."""
    return (arch.in_flight - 1).bit_length()


def fetchers_of(arch: ArchConfig, core: int) -> list[int]:
    """Numbers of the fetchers that can serve a core: with k core groups, the fetcher of its group has the number `core % k`."""
    return sorted({core % (1 << k) for k in range(arch.cores.bit_length())})


def sharing(arch: ArchConfig) -> int:
    """Bits of `shared`: bit k is set if 2**(k + 1) core groups share a port of activation memory; they are the upper bits of SPLIT.

    0 if every group has a port: then reads need not be saved, and there is no word window.
    """
    return (arch.cores // arch.ports).bit_length() - 1


def reads_late(arch: ArchConfig) -> bool:
    """Whether activations are read when their events are issued: if there is one core and its words are single segments.

    Then the stages before the issuer carry a word's address instead of its values, and a memory of its own holds which channels
    are zero.
    """
    return arch.cores == 1 and arch.lanes == arch.segment


def job_depth(arch: ArchConfig) -> int:
    """Largest number of outputs that are dispatched to a fetcher and not yet taken by its walker.

    Two if every core group has a port. If groups share a port, one and a whole run: then the word window serves the run, and saves
    reads that other fetchers wait for. With one operation in flight, one: the outputs of the small core take long enough.
    """
    return 1 if arch.in_flight == 1 else 1 + (isa.RUN_MAX if sharing(arch) else 1)


def output_depth(arch: ArchConfig) -> int:
    """Largest number of outputs that are dispatched to a core and not yet closed."""
    return {"pipelined": 16, "small": 2}[arch.profile]
