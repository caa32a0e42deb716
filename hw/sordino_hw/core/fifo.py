"""Small FIFOs and the credits that let a pipeline of fixed latency feed one without overflow."""

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Credit", "Fifo"]


class Fifo(wiring.Component):
    """A stream FIFO: an item pushed in cycle t can leave from cycle t+1, a place that it leaves is free a cycle later."""

    def __init__(self, shape, depth: int):
        self.shape, self.depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.queue = queue = fifo.SyncFIFO(width=width, depth=self.depth)
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
        return m


class Credit(wiring.Component):
    """Counts items between a point of decision and a FIFO's exit.

    `grant` is high while fewer than `depth` items are on their way or waiting; `take` enters one, `give` frees one for
    the next cycle.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({"grant": Out(1), "take": In(1), "give": In(1)})

    def elaborate(self, platform):
        m = Module()
        used = Signal(range(self.depth + 1))
        m.d.comb += self.grant.eq(used != self.depth)
        m.d.sync += used.eq(used + self.take - self.give)
        return m
