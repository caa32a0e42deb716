"""The memory of the core, from the primitives: one interface, a form for each FPGA family."""

from ..primitives import LATENCY, BlockMemory

__all__ = ["LATENCY", "BlockMemory"]
