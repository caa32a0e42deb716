"""Small FIFOs, and the credits that let a pipeline of fixed latency feed one without overflow."""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..primitives import SmallMemory

__all__ = ["Credit", "Fifo", "Ring"]

MARKS = 8
"""Items up to which credit is a mark for each, and no number."""


def _count(m: Module, counter, depth: int, up, down):
    """Counts, and returns the register that says `counter != depth`: both are ready before `up` and `down`, which come late;
    `down`, the later one, decides only whether they change.
    """
    room = Signal(init=1)
    with m.If(up ^ down):
        m.d.sync += [counter.eq(counter + Mux(up, 1, -1)), room.eq(~up | (counter != depth - 1))]
    return room


class Fifo(wiring.Component):
    """A stream FIFO whose output is a register: an item pushed in cycle t can leave from cycle t + `latency`.

    It holds `depth` items, counted from push to pop; a place that an item leaves in cycle t is free from t + 1.

    Parameters
    ----------
    shape
    depth : int
    latency : int
        2 (`Latencies.fifo`), or 1, where an item goes from one end to the other in a cycle; of up to two items.
    guarded : bool
        Whoever pushes knows from elsewhere that there is room (`Credit`): `i.ready` is high, and nothing counts a `level`.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
        `o.payload` means something with `o.valid` alone.
    next : Out(shape), more : Out(1)
        The item that `o` shows in the next cycle, unless it still shows the one of this cycle; `more`: there is one.
    level : Out(range(depth + 1))
        Items in the FIFO: a register. Zero if it is `guarded`.
    """

    def __init__(self, shape, depth: int, latency: int = 2, *, guarded: bool = False):
        if latency not in (1, 2) or (latency == 1 and depth > 2):
            raise ValueError(f"a FIFO has a latency of 2, or, of up to two items, 1, not {latency!r} of {depth!r} items")
        self.shape, self.depth, self.latency, self.guarded = shape, depth, latency, guarded
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "next": Out(shape),
                "more": Out(1),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        push, pop, move = self.i.valid & self.i.ready, self.o.valid & self.o.ready, ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(1 if self.guarded else _count(m, self.level, self.depth, push, pop))
        if self.latency == 1:
            first, waiting, more = Signal(self.shape, reset_less=True), Signal(), Signal()
            m.d.comb += [more.eq(waiting | push), self.more.eq(more), self.next.eq(Mux(waiting, first, self.i.payload))]
            with m.If(move):
                m.d.sync += [self.o.payload.eq(self.next), self.o.valid.eq(more)]
            if self.depth == 2:
                with m.If(push & (waiting | ~move)):
                    m.d.sync += [first.eq(self.i.payload), waiting.eq(1)]
                with m.Elif(move):
                    m.d.sync += waiting.eq(0)
            return m
        if self.depth == 1:
            # A register, which shows its item a cycle late.
            waiting = Signal()
            with m.If(push):
                m.d.sync += self.o.payload.eq(self.i.payload)
            with m.If(pop):
                m.d.sync += self.o.valid.eq(0)
            with m.Elif(waiting):
                m.d.sync += self.o.valid.eq(1)
            m.d.sync += waiting.eq(push)
            m.d.comb += [self.next.eq(self.o.payload), self.more.eq(waiting)]
            return m
        if self.depth == 2:
            # Two registers: an item passes the first in a cycle, unless the second is taken.
            first, waiting = Signal(self.shape, reset_less=True), Signal()
            m.d.comb += [self.next.eq(first), self.more.eq(waiting)]
            with m.If(move):
                m.d.sync += [self.o.payload.eq(first), self.o.valid.eq(waiting)]
            with m.If(push):
                m.d.sync += [first.eq(self.i.payload), waiting.eq(1)]
            with m.Elif(move):
                m.d.sync += waiting.eq(0)
            return m
        width = Shape.cast(self.shape).width
        if not width:
            # Nothing but a count of those that were pushed before the last cycle.
            pushed, waiting = Signal(), Signal.like(self.level)
            m.d.sync += pushed.eq(push)
            m.d.comb += [self.o.valid.eq(waiting != 0), self.more.eq(pushed | (waiting > 1))]
            with m.If(pushed & ~pop):
                m.d.sync += waiting.eq(waiting + 1)
            with m.Elif(pop & ~pushed):
                m.d.sync += waiting.eq(waiting - 1)
            return m
        # One item is in the output register whenever others wait, so the memory is never full. The register takes whatever
        # the memory shows while it has no item, so that its enable waits for no more than `o`.
        rows, attributes = 1 << (self.depth - 1).bit_length(), {"no_rw_check": 1}  # no item is read as it is written
        m.submodules.array = array = memory.Memory(shape=unsigned(width), depth=rows, init=[], attrs=attributes)
        write, read = array.write_port(), array.read_port(domain="comb")
        item = Signal(width, reset_less=True)
        m.d.comb += [
            Value.cast(self.o.payload).eq(item),
            Value.cast(self.next).eq(read.data),
            write.data.eq(self.i.payload),
            write.en.eq(push),
        ]
        m.d.sync += write.addr.eq(write.addr + push)
        more, single = Signal(), Signal()
        m.d.comb += [self.more.eq(more), single.eq((read.addr + 1)[: len(read.addr)] == write.addr)]
        with m.If(push | move):
            m.d.sync += more.eq(push | (more & ~single))
        with m.If(move):
            m.d.sync += [item.eq(read.data), self.o.valid.eq(more), read.addr.eq(read.addr + more)]
        return m


class Ring(wiring.Component):
    """A queue whose ends know from elsewhere that there is room, and that an item is there: nothing but a memory and two counters.

    Parameters
    ----------
    shape
    items : int
        Items in it at most.

    Members
    -------
    push : In(1), i : In(shape)
    pop : In(1), o : Out(shape)
        The oldest item, at the earliest in the cycle after its push; `pop` drops it.
    """

    def __init__(self, shape, items: int):
        self.shape, self.depth = shape, 1 << (items - 1).bit_length()
        super().__init__({"push": In(1), "i": In(shape), "pop": In(1), "o": Out(shape)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = SmallMemory(self.depth, Shape.cast(self.shape).width)
        m.d.sync += [memory.w_addr.eq(memory.w_addr + self.push), memory.r_addr.eq(memory.r_addr + self.pop)]
        m.d.comb += [memory.w_en.eq(self.push), memory.w_data.eq(self.i), self.o.eq(memory.r_data)]
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
        if self.depth > MARKS:
            used = Signal(range(self.depth + 1))
            m.d.comb += self.grant.eq(_count(m, used, self.depth, self.take, self.give))
            return m
        # A mark for each place that is free moves by one level of logic behind `take`, which is as late as what it decides on.
        free = Signal(self.depth, init=-1)
        m.d.comb += self.grant.eq(free[0])
        with m.If(self.take ^ self.give):
            m.d.sync += free.eq(Mux(self.take, free[1:], Cat(1, free)))
        return m
