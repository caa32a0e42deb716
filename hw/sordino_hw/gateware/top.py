"""The whole accelerator: the array behind its host port."""

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, connect, flipped

from ..spec.arch import ArchConfig
from ..spec.isa import HOST_ADDR_BITS
from .cluster import Cluster
from .host.axi import AXI4LiteSignature
from .host.port import HostPort

__all__ = ["Top"]


class Top(Component):
    """`HostPort` and `Cluster` in one clock domain (`sync`, with a synchronous reset). Throughput and latency are theirs.

    Parameters
    ----------
    arch : ArchConfig

    Members
    -------
    s_axil : In(AXI4LiteSignature(28))
    """

    def __init__(self, arch: ArchConfig):
        self.arch = arch
        super().__init__({"s_axil": In(AXI4LiteSignature(HOST_ADDR_BITS))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.host = host = HostPort(self.arch)
        m.submodules.cluster = cluster = Cluster(self.arch)
        connect(m, flipped(self.s_axil), host.bus)
        connect(m, host.window, cluster.window)
        connect(m, host.control, cluster.control)
        return m
