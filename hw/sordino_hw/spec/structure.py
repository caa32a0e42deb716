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
    """Fetchers that can serve a core: that of its group, whose number is the core's modulo the groups."""
    return sorted({core % (1 << k) for k in range(arch.cores.bit_length())})


def sharing(arch: ArchConfig) -> int:
    """Bits of `shared`: bit k says that there are 2**(k + 1) groups to a port of activation memory; none, that every group
    has a port, and needs no window to save reads. They are the upper bits of SPLIT.
    """
    return (arch.cores // arch.ports).bit_length() - 1


def reads_late(arch: ArchConfig) -> bool:
    """Whether activations are read when their events are issued: where one core has the memory, and its words are segments.

    Then a word's address stands for it on its way to the issuer, and which of its channels are zero has a memory of its own.
    """
    return arch.cores == 1 and arch.lanes == arch.segment


def job_depth(arch: ArchConfig) -> int:
    """Outputs dealt to a fetcher that its walker has not taken, at most: one, and a whole run behind it, so that its window saves
    reads of a port that others wait for; where every group has a port, there is nothing to save, and one follows.

    The smallest core, whose outputs take their time, does with one.
    """
    return 1 if arch.in_flight == 1 else 1 + (isa.RUN_MAX if sharing(arch) else 1)


def output_depth(arch: ArchConfig) -> int:
    """Outputs dealt to a core that it has not closed, at most."""
    return {"pipelined": 16, "small": 2}[arch.profile]
