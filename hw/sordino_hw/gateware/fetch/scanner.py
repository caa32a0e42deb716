"""The scanner: turns each row's occupancy bits into word requests."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...spec.arch import ArchConfig
from ...spec.structure import fetchers_of
from ..layouts import Request, Row
from ..lib.combinators import gate, lowest

__all__ = ["Scanner", "makes_requests", "needs_no_slot"]


class Scanner(wiring.Component):
    """Turns the set bits of each row into word requests, lowest first.

    Throughput: a request a cycle; a row without bits takes a cycle too, and makes no request, unless it ends an output: then a
    `null` request. A request waits until every core of its group has room for a word, and, if it reads activation memory, for the
    fetcher's time slot. Latency: none from a row to its first request.

    Parameters
    ----------
    arch : ArchConfig
    index : int
        Number of the fetcher. With G groups on P ports it reads in cycles t with `t % n == index // P % n`, n = max(1, G // P).

    Members
    -------
    rows : In(stream of Row), next : In(Row), more : In(1)
        See `FifoInterface`: what decides about a row is registered in the cycle before it shows. `rows.ready` is high while there
        is no row.
    credit : In(cores)
        The core has room for a word; of those that the fetcher can serve.
    cycle : In(3)
        Low bits of the machine's cycle count.
    valid : Out(1), request : Out(Request)
        The request, in the cycle in which it is granted.
    take : Out(cores)
        The cores that it is for, in that cycle.
    words : Out(1), skipped : Out(range(33))
        For the performance log, in this cycle: a word was requested, and so many empty words were skipped.
    drained : Out(1)
        The request is the last one of its job.
    """

    def __init__(self, arch: ArchConfig, index: int):
        self.arch, self.index = arch, index
        super().__init__(
            {
                "rows": In(stream.Signature(Row(arch))),
                "next": In(Row(arch)),
                "more": In(1),
                "credit": In(arch.cores),
                "cycle": In(3),
                "valid": Out(1),
                "request": Out(Request(arch)),
                "take": Out(arch.cores),
                "words": Out(1),
                "skipped": Out(range(arch.occ_width + 1)),
                "drained": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        occ_width, row, tag, request = self.arch.occ_width, self.rows.payload.row, self.rows.payload.tag, self.request
        seen, zero = Signal(occ_width), Signal()
        left = row.bits & ~seen
        bit, index = lowest(left, occ_width)
        requests, any_time, final = self._decide(m, left)
        self._grant(m, requests, self._time_slot(m, any_time), final)
        m.d.comb += [
            request.address.eq(Cat(index, tag.row)),
            request.null.eq(row.none),
            request.zero.eq(zero | (row.size != row.count)),
            *(request[name].eq(tag[name]) for name, _ in tag.shape() if name != "row"),
            request.end.eq(tag.end & final),
            request.last.eq(tag.last & final),
            self.words.eq(self.valid & ~row.none),
            self.skipped.eq(Mux(self.rows.valid & self.rows.ready, row.size - row.count, 0)),
            self.drained.eq(self.valid & request.end & (request.last if self.arch.cores > 1 else 1)),
        ]
        with m.If(self.rows.ready):
            m.d.sync += seen.eq(0)
        with m.Elif(self.valid):
            m.d.sync += seen.eq(seen | bit)
        with m.If(self.rows.valid & self.rows.ready):
            m.d.sync += zero.eq(~tag.end & request.zero)
        return m

    def _decide(self, m, left):
        """Of the row at hand: whether it makes requests, whether these wait for no time slot, and whether the next one is its last.

        Lookahead: the answers are registers, from the row that follows. The requests are counted, because that the count reaches
        the row's is known sooner than that no bit is left.
        """
        row, following = self.rows.payload.row, self.next
        requests, any_time, single, final = Signal(), Signal(), Signal(), Signal()
        with m.If(self.rows.ready):
            m.d.sync += [
                requests.eq(self.more & makes_requests(following)),
                any_time.eq(needs_no_slot(following)),
                single.eq(following.row.count <= 1),
            ]
        number, counted = Signal(range(self.arch.occ_width + 1), init=2), Signal()  # `number` is that of the next request
        with m.If(self.rows.ready):
            m.d.sync += [number.eq(2), counted.eq(0)]
        with m.Elif(self.valid):
            m.d.sync += [number.eq(number + 1), counted.eq(number == row.count)]
        m.d.comb += final.eq(single | counted)
        return requests, any_time, final

    def _time_slot(self, m, any_time):
        """Whether this is the fetcher's time slot, or none is needed."""
        tag = self.rows.payload.tag
        # A copy of the cycle's number close by, a cycle late.
        before = Signal(max(1, len(tag.shared)), init=-1)
        m.d.sync += before.eq(self.cycle)
        turns = [(before[: k + 1] + 1)[: k + 1] == self.index // self.arch.ports % (2 << k) for k in range(len(tag.shared))]
        slot = any_time | turns[-1] if turns else any_time
        for shared, turn in zip(tag.shared, turns[:-1], strict=False):
            slot = Mux(shared, any_time | turn, slot)
        return slot

    def _grant(self, m, requests, slot, final):
        """Grants the request, two levels of logic before signals that reach across the fetcher and to its cores."""
        tag = self.rows.payload.tag
        served = [c for c in range(self.arch.cores) if self.index in fetchers_of(self.arch, c)]
        group, to = (tag.group, tag.to) if self.arch.cores > 1 else (Const(1, 1), Const(1, 1))
        bits, may = Cat(Cat(group[c], self.credit[c]) for c in served), requests & slot
        room = [
            gate(m, f"room_{k}", lambda g, c, h=0, d=0: (1 - g | c) & (1 - h | d), *bits[k : k + 4]) for k in range(0, len(bits), 4)
        ]
        granted = room[0], Cat(room[1:]).all()

        def leaves(a, b, last, requests):
            return 1 - requests | a & b & last

        m.d.comb += [
            self.valid.eq(gate(m, "valid", lambda a, b, may: a & b & may, *granted, may)),
            *(self.take[c].eq(gate(m, f"take_{c}", lambda a, b, may: a & b & may, *granted, may & to[c])) for c in served),
            self.rows.ready.eq(gate(m, "ready", leaves, *granted, slot & final, requests)),
        ]


def makes_requests(row):
    """Whether a row makes requests."""
    return ~row.row.none | row.tag.end


def needs_no_slot(row):
    """Whether a row's requests wait for no time slot: they read no memory, or one that no other fetcher reads."""
    return row.row.none | row.tag.reuse | ~row.tag.shared.any()
