"""AXI4-Lite: the bus signature, and the channel handling of a subordinate."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import enum
from amaranth.lib.wiring import Component, In, Out, Signature

__all__ = ["AXI4LiteSignature", "ReadSignature", "Resp", "Subordinate", "WriteSignature"]


class Resp(enum.Enum, shape=unsigned(2)):
    """Response codes (`EXOKAY` does not exist on AXI4-Lite)."""

    OKAY = 0
    SLVERR = 2
    """The address exists, this access to it does not."""
    DECERR = 3
    """Nothing is at that address."""


class AXI4LiteSignature(Signature):
    """The five channels with 32-bit data, seen from the manager. Member names are those of the specification.

    Parameters
    ----------
    addr_width : int
        Bits of a byte address.
    """

    def __init__(self, addr_width: int):
        if not 2 < addr_width <= 64:
            raise ValueError(f"addr_width must be from 3 to 64, not {addr_width!r}")
        self.addr_width = addr_width
        super().__init__(
            {
                "awaddr": Out(addr_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(Resp),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(Resp),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class WriteSignature(Signature):
    """One write: performed in the cycle in which `valid` and `ready` are both 1, which also samples `resp`."""

    def __init__(self, addr_width: int):
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(addr_width),
                "data": Out(32),
                "strobe": Out(4),
                "resp": In(Resp),
            }
        )


class ReadSignature(Signature):
    """One read: performed in the cycle in which `valid` and `ready` are both 1, which also samples `data` and `resp`."""

    def __init__(self, addr_width: int):
        super().__init__({"valid": Out(1), "ready": In(1), "address": Out(addr_width), "data": In(32), "resp": In(Resp)})


class Subordinate(Component):
    """Turns the five channels into whole accesses.

    One register buffers each channel, so every output of the bus comes straight from a flip-flop and every input goes
    to one: no channel waits for another, and no combinational path crosses the port. Reads and writes are not ordered among
    each other beyond what AXI asks: an access issued after the response of another sees its effect.

    Parameters
    ----------
    addr_width : int

    Members
    -------
    bus : In(AXI4LiteSignature(addr_width))
    write : Out(WriteSignature(addr_width))
    read : Out(ReadSignature(addr_width))

    Throughput: one write and one read every 2 cycles where `ready` answers at once. Latency: 2 cycles from the
    address to the response.
    """

    def __init__(self, addr_width: int):
        super().__init__(
            {
                "bus": In(AXI4LiteSignature(addr_width)),
                "write": Out(WriteSignature(addr_width)),
                "read": Out(ReadSignature(addr_width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus, write, read = self.bus, self.write, self.read

        def request(valid, ready, payload, held):
            """Buffers one request channel; returns whether it holds a request and a signal that frees it."""
            full, free = Signal(), Signal()
            m.d.comb += ready.eq(~full)
            with m.If(valid & ~full):
                m.d.sync += [full.eq(1), held.eq(payload)]
            with m.Elif(free):
                m.d.sync += full.eq(0)
            return full, free

        def response(valid, ready, fire, held, payload):
            """Buffers one response channel; returns whether it is empty."""
            with m.If(fire):
                m.d.sync += [valid.eq(1), held.eq(payload)]
            with m.Elif(ready):
                m.d.sync += valid.eq(0)
            return ~valid

        aw, aw_free = request(bus.awvalid, bus.awready, bus.awaddr, write.address)
        w, w_free = request(bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb), Cat(write.data, write.strobe))
        write_fire = write.valid & write.ready
        b_empty = response(bus.bvalid, bus.bready, write_fire, bus.bresp, write.resp)
        m.d.comb += [write.valid.eq(aw & w & b_empty), aw_free.eq(write_fire), w_free.eq(write_fire)]

        ar, ar_free = request(bus.arvalid, bus.arready, bus.araddr, read.address)
        read_fire = read.valid & read.ready
        r_empty = response(
            bus.rvalid, bus.rready, read_fire, Cat(bus.rdata, bus.rresp.as_value()), Cat(read.data, read.resp.as_value())
        )
        m.d.comb += [read.valid.eq(ar & r_empty), ar_free.eq(read_fire)]
        return m
