"""What the stages of post-processing share: an output's sums pass them in chunks of `ppu` channels."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data

from ...spec.arch import ArchConfig
from ...spec.structure import tag_bits

__all__ = ["Chunk", "chunk_index"]


class Chunk(data.StructLayout):
    """What accompanies a chunk: if there is one, if it is its output's last, and the output's operation."""

    def __init__(self, arch: ArchConfig):
        super().__init__({"valid": 1, "last": 1, "tag": tag_bits(arch)})


def chunk_index(m: Module, arch: ArchConfig, chunk):
    """The number of a chunk within its output, counted at one stage."""
    index = Signal(range(max(2, arch.chunks)))
    with m.If(chunk.valid):
        m.d.sync += index.eq(Mux(chunk.last, 0, index + 1))
    return index
