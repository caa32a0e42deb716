"""Small FIFOs, and the credits that let a pipeline of fixed latency feed one without overflow.

`fifo_for` chooses the smallest class for a shape, a depth and a latency; all of them keep the contract of `FifoInterface`.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..primitives import SmallMemory

__all__ = [
    "CountingFifo",
    "Credit",
    "FifoInterface",
    "ForwardingFifo",
    "MemoryFifo",
    "OneItemFifo",
    "Ring",
    "TwoItemFifo",
    "fifo_for",
]

THERMOMETER_DEPTH = 8
"""Largest depth that uses a thermometer code instead of a counter."""


def _has_room(m: Module, depth: int, up, down):
    """A register that says that fewer than `depth` items are in it: `up` enters one, `down` lets one leave.

    Late signals do little: `down`, the later one, decides only whether the register changes.
    """
    count, room = Signal(range(depth + 1), name="count"), Signal(init=1, name="room")
    with m.If(up ^ down):
        m.d.sync += [count.eq(count + Mux(up, 1, -1)), room.eq(~up | (count != depth - 1))]
    return room


class FifoInterface(wiring.Component):
    """A stream FIFO whose output is a register: an item pushed in cycle t can leave from cycle t + `latency` on.

    It holds `depth` items, counted from push to pop; a place that an item leaves in cycle t is free from t + 1 on.
    Throughput: an item a cycle, if it holds at least `latency` items.

    Parameters
    ----------
    shape
    depth : int
    guarded : bool
        The producer knows from elsewhere that there is room (`Credit`): `i.ready` is always high, and nothing is counted.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
        `o.payload` means something with `o.valid` alone.
    next : Out(shape), more : Out(1)
        Lookahead: the item that `o` shows in the next cycle, unless it still shows the one of this cycle; and if there is one.
    """

    latency = 2

    def __init__(self, shape, depth: int, *, guarded: bool = False):
        self.shape, self.depth, self.guarded = shape, depth, guarded
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "next": Out(shape),
                "more": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        push, pop = self.i.valid & self.i.ready, self.o.valid & self.o.ready
        m.d.comb += self.i.ready.eq(1 if self.guarded else _has_room(m, self.depth, push, pop))
        self._store(m, push, pop, ~self.o.valid | self.o.ready)
        return m

    def _store(self, m, push, pop, move):
        """Stores what is pushed, and drives `o`, `next` and `more`; the output register is free in a cycle of `move`."""
        raise NotImplementedError


class ForwardingFifo(FifoInterface):
    """A skid buffer of one or two items with a latency of one cycle: the output register takes an item as it is pushed."""

    latency = 1

    def _store(self, m, push, pop, move):
        first, waiting, more = Signal(self.shape, reset_less=True), Signal(), Signal()
        m.d.comb += [more.eq(waiting | push), self.more.eq(more), self.next.eq(Mux(waiting, first, self.i.payload))]
        with m.If(move):
            m.d.sync += [self.o.payload.eq(self.next), self.o.valid.eq(more)]
        if self.depth == 2:
            with m.If(push & (waiting | ~move)):
                m.d.sync += [first.eq(self.i.payload), waiting.eq(1)]
            with m.Elif(move):
                m.d.sync += waiting.eq(0)


class OneItemFifo(FifoInterface):
    """One register, which shows its item in the second cycle."""

    def _store(self, m, push, pop, move):
        waiting = Signal()
        with m.If(push):
            m.d.sync += self.o.payload.eq(self.i.payload)
        with m.If(pop):
            m.d.sync += self.o.valid.eq(0)
        with m.Elif(waiting):
            m.d.sync += self.o.valid.eq(1)
        m.d.sync += waiting.eq(push)
        m.d.comb += [self.next.eq(self.o.payload), self.more.eq(waiting)]


class TwoItemFifo(FifoInterface):
    """Two registers: an item stays in the first for a cycle, unless the second is taken."""

    def _store(self, m, push, pop, move):
        first, waiting = Signal(self.shape, reset_less=True), Signal()
        m.d.comb += [self.next.eq(first), self.more.eq(waiting)]
        with m.If(move):
            m.d.sync += [self.o.payload.eq(first), self.o.valid.eq(waiting)]
        with m.If(push):
            m.d.sync += [first.eq(self.i.payload), waiting.eq(1)]
        with m.Elif(move):
            m.d.sync += waiting.eq(0)


class CountingFifo(FifoInterface):
    """Of items without bits: a count of those that were pushed before the last cycle."""

    def _store(self, m, push, pop, move):
        pushed, waiting = Signal(), Signal(range(self.depth + 1))
        m.d.sync += pushed.eq(push)
        m.d.comb += [self.o.valid.eq(waiting != 0), self.more.eq(pushed | (waiting > 1))]
        with m.If(pushed & ~pop):
            m.d.sync += waiting.eq(waiting + 1)
        with m.Elif(pop & ~pushed):
            m.d.sync += waiting.eq(waiting - 1)


class MemoryFifo(FifoInterface):
    """A memory in front of the output register.

    One item is in the register whenever others wait, so the memory is never full. Speculative load: the register takes what
    the memory shows while it has no item, so that its enable waits for `o` alone.
    """

    def _store(self, m, push, pop, move):
        width, rows = Shape.cast(self.shape).width, 1 << (self.depth - 1).bit_length()
        attributes = {"no_rw_check": 1}  # no item is read in the cycle in which it is written
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


def fifo_for(shape, depth: int, latency: int = 2, *, guarded: bool = False) -> FifoInterface:
    """The FIFO of `depth` items with that latency (`Latencies.fifo`): 2, or, of up to two items, 1. Raises `ValueError`."""
    if latency not in (1, 2) or (latency == 1 and depth > 2):
        raise ValueError(f"a FIFO has a latency of 2, or, of up to two items, 1, not {latency!r} of {depth!r} items")
    if latency == 1:
        kind: type[FifoInterface] = ForwardingFifo
    elif depth <= 2:
        kind = OneItemFifo if depth == 1 else TwoItemFifo
    else:
        kind = MemoryFifo if Shape.cast(shape).width else CountingFifo
    return kind(shape, depth, guarded=guarded)


class Ring(wiring.Component):
    """A queue of items in flight, without a handshake: the producer knows that there is room, the consumer that an item is there.

    It is a memory and two counters. Throughput: an item a cycle. Latency: a cycle.

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
    """Permission to send, for each place of a FIFO behind a pipeline of fixed latency.

    Throughput: an item sent and one freed a cycle. Latency: a cycle.

    Parameters
    ----------
    depth : int
        Items between the decision to send them and the FIFO's output, at most.

    Members
    -------
    grant : Out(1)
        Fewer than `depth` items are on their way or waiting.
    take : In(1), give : In(1)
        An item is sent; an item left the FIFO, which frees its place for the next cycle.
    """

    def __init__(self, depth: int):
        self.depth = depth
        super().__init__({"grant": Out(1), "take": In(1), "give": In(1)})

    def elaborate(self, platform):
        m = Module()
        if self.depth > THERMOMETER_DEPTH:
            m.d.comb += self.grant.eq(_has_room(m, self.depth, self.take, self.give))
            return m
        # A thermometer code of the free places: it changes with one level of logic behind `take`, a late signal.
        free = Signal(self.depth, init=-1)
        m.d.comb += self.grant.eq(free[0])
        with m.If(self.take ^ self.give):
            m.d.sync += free.eq(Mux(self.take, free[1:], Cat(1, free)))
        return m
