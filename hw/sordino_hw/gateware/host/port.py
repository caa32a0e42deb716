"""The host port: control registers and host window on AXI4-Lite."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from ...spec.address_map import READABLE, WRITABLE, check_address_space
from ...spec.arch import ArchConfig
from ...spec.isa import (
    CSR,
    HOST_ADDR_BITS,
    ID_VALUE,
    PER_CORE,
    REGION_SHIFT,
    Region,
    region_bits,
    region_depth,
    region_stride,
    row_bytes,
    row_pieces,
    window_pieces,
)
from ...spec.latencies import Latencies
from ..lib.combinators import delay
from ..primitives import SmallMemory
from .axi import AXI4LiteSignature, Resp, Subordinate
from .interfaces import ControlSignature, WindowSignature

__all__ = ["HostPort"]


class HostPort(Component):
    """Control registers (`isa.CSR`) and memory windows (`isa.Region`) behind one AXI4-Lite port.

    No access waits for the end of a run, so that a write of LIMIT is always heard: 0 stops a run. A memory window is refused
    (`SLVERR`) while the machine runs; control registers answer at any time.

    Writing: the 32-bit pieces of a row are staged, and the last one commits the row. They must come in ascending
    order, from piece 0, without another row's between them (control registers may come between): so a row is
    written whole or not at all. Reading: every piece is fetched by itself.

    `SLVERR` answers, and nothing is written by: an address that is no multiple of 4; any byte strobe clear; a piece
    beyond its row or out of order; a write to PERF or to a read-only register; a read of WEIGHT, MASK or PARAM; a window
    while the machine runs. `DECERR` answers: a region, core, row or register that does not exist. Errors read as zero.

    Parameters
    ----------
    arch : ArchConfig
        Raises `ArchError` if a memory is larger than its region of the address space.

    Members
    -------
    bus : In(AXI4LiteSignature(28))
    window : Out(WindowSignature(arch))
    control : Out(ControlSignature())

    Throughput: a write, or an access to a control register, every 3 cycles. The last piece of a row takes a cycle more for each
    piece that the window takes. Latency: a read of a memory takes `Latencies.window` + 3 cycles more.
    """

    def __init__(self, arch: ArchConfig):
        check_address_space(arch)
        self.arch = arch
        super().__init__(
            {
                "bus": In(AXI4LiteSignature(HOST_ADDR_BITS)),
                "window": Out(WindowSignature(arch)),
                "control": Out(ControlSignature()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.axi = axi = Subordinate(HOST_ADDR_BITS)
        connect(m, flipped(self.bus), axi.bus)
        window, control = self.window, self.control

        busy = Signal()  # the window is in use, or the machine is about to run
        m.d.sync += [window.we.eq(0), window.re.eq(0), control.start.eq(0)]
        fetched = Signal()
        asked, fetch, source = self._read(m, axi.read, busy, fetched)
        commit, target, piece = self._write(m, axi.write, busy, asked)

        fetching = Signal()
        latency = Latencies(self.arch).window
        countdown, last = Signal(range(latency + 1)), Signal.like(window.piece)
        m.d.comb += busy.eq(control.start | window.we | fetching | delay(m, fetching, 1, "fetching"))
        m.d.sync += fetched.eq(fetched & asked)
        with m.If(fetch | commit):
            # No row is committed while a read waits: `asked` alone chooses.
            place = Cat(window.piece, window.region, window.row)
            m.d.sync += [window.we.eq(commit), window.re.eq(fetch), place.eq(Mux(asked, source, target))]
        with m.If(commit):
            m.d.sync += last.eq(piece if window_pieces(self.arch) > 1 else 0)
        with m.If(window.we & (window.piece != last)):
            m.d.sync += [window.we.eq(1), window.piece.eq(window.piece + 1)]
        with m.If(fetch):
            m.d.sync += [fetching.eq(1), countdown.eq(latency)]
        with m.If(fetching):
            m.d.sync += countdown.eq(countdown - 1)
            with m.If(countdown == 0):
                m.d.sync += [fetching.eq(0), fetched.eq(1)]
        return m

    def _decode(self, m, address, regions, name):
        """Decodes an address of a memory window: (region, row, piece, last piece, response).

        `regions` are those that the access may reach. The response is OKAY if the access exists; otherwise it is all that counts.
        """
        rows = max(region_stride(self.arch, r) * (self.arch.cores if r in PER_CORE else 1) for r in WRITABLE + READABLE)
        region, index = Signal(Region, name=f"{name}_region"), Signal(range(rows), name=f"{name}_row")
        most = max(row_pieces(region_bits(self.arch, r)) for r in regions)
        piece, last = Signal(range(max(most, 2)), name=f"{name}_piece"), Signal(range(max(most, 2)), name=f"{name}_last")
        resp = Signal(Resp, name=f"{name}_resp")
        m.d.comb += [region.eq(address[REGION_SHIFT:]), resp.eq(Resp.DECERR)]
        with m.Switch(address[REGION_SHIFT:]):
            for r in Region:
                if r is Region.CSR:
                    continue
                bits = region_bits(self.arch, r)
                low = ceil_log2(row_bytes(bits))
                with m.Case(r.value):
                    if r in regions:
                        here = address[2:low] if low > 2 else Const(0, 1)
                        m.d.comb += [index.eq(address[low:REGION_SHIFT]), piece.eq(here), last.eq(row_pieces(bits) - 1)]
                    with m.If(self._exists(r, address[low:REGION_SHIFT])):
                        m.d.comb += resp.eq(Resp.SLVERR)
                        if r in regions:
                            with m.If((address[:2] == 0) & (here < row_pieces(bits))):
                                m.d.comb += resp.eq(Resp.OKAY)
        return region, index, piece, last, resp

    def _exists(self, region, row):
        """Whether a region has a row of this number."""
        if region not in PER_CORE:
            return row < region_depth(self.arch, region)
        stride = ceil_log2(region_stride(self.arch, region))
        return (row[:stride] < region_depth(self.arch, region)) & (row[stride:] < self.arch.cores)

    def _read(self, m, port, busy, fetched):
        """Serves reads, in the second cycle of a request: the first decodes.

        Returns whether a request is in its second cycle, whether it fetches a piece, and which one.
        """
        window, control = self.window, self.control
        decoded = self._decode(m, port.address, READABLE, "read")
        region, index, piece, resp = (delay(m, decoded[k], 1, "read") for k in (0, 1, 2, 4))
        asks_csr = port.address[REGION_SHIFT:] == Region.CSR.value
        is_csr = delay(m, asks_csr, 1, "read_csr")
        shown, csr_resp = Signal(32), Signal(Resp)
        m.d.sync += [shown.eq(0), csr_resp.eq(Resp.DECERR)]
        with m.Switch(port.address[2:REGION_SHIFT]):
            for name in CSR:
                with m.Case(CSR[name] >> 2):
                    m.d.sync += csr_resp.eq(Mux(port.address[:2] == 0, Resp.OKAY, Resp.SLVERR))
        with m.Switch(port.address[2:5]):
            for name, value in {
                "ID": Const(ID_VALUE, 32),
                "HASH": Const(self.arch.hash, 32),
                "CTRL": Const(0, 32),
                "STATUS": Cat(control.running, control.halted, Const(0, 2), control.trap),
                "LIMIT": control.limit,
                "PC": control.pc,
                "CYCLES": control.cycles,
                "OPS": control.ops,
            }.items():
                with m.Case(CSR[name] >> 2):
                    m.d.sync += shown.eq(value)

        asked, good, fetch = self._second(m, port, "read"), Signal(), Signal()
        csr_good = is_csr & (csr_resp == Resp.OKAY)
        place, data = Signal.like(window.piece), window.rdata
        if len(data) > 32:
            data = data.word_select(piece, 32)
        else:
            m.d.comb += place.eq(piece)
        m.d.comb += [
            good.eq((resp == Resp.OKAY) & ~control.running),
            fetch.eq(asked & ~busy & good & ~fetched),
            port.ready.eq(asked & ~busy & ~fetch),
            port.resp.eq(Mux(is_csr, csr_resp, self._refused(resp))),
            port.data.eq(data & good.replicate(32) | shown & csr_good.replicate(32)),
        ]
        return asked, fetch, Cat(place, region, index)

    def _refused(self, resp):
        """The response of a memory window: that of the address, but that nothing is done while the machine runs."""
        return Mux(self.control.running & (resp == Resp.OKAY), Resp.SLVERR, resp)

    def _write(self, m, port, busy, read):
        """Serves writes in the second cycle of a request, unless the window is `busy` or there is a `read`, which goes first.

        Returns whether a row is complete, where it is, and the number of its last piece.
        """
        control = self.control
        decoded = self._decode(m, port.address, WRITABLE, "write")
        region, index, piece, resp = (delay(m, decoded[k], 1, "write") for k in (0, 1, 2, 4))
        last = delay(m, decoded[2] == decoded[3], 1, "write_last")
        expected = Signal(HOST_ADDR_BITS - 2)  # word address of the row's next piece; that of no row at 0
        is_csr, whole, in_order, aligned = (
            delay(m, s, 1, f"write_{name}")
            for name, s in (
                ("csr", port.address[REGION_SHIFT:] == Region.CSR.value),
                ("whole", port.strobe.all()),
                ("in_order", (decoded[2] == 0) | (port.address[2:] == expected)),
                ("aligned", port.address[:2] == 0),
            )
        )
        asked, good, stored, commit = self._second(m, port, "write"), Signal(), Signal(), Signal()
        m.d.comb += [
            port.ready.eq(asked & ~busy & ~read),
            port.resp.eq(self._refused(resp)),
            good.eq(asked & (resp == Resp.OKAY) & whole & in_order),
            stored.eq(good & ~busy & ~read & ~control.running),
            commit.eq(stored & last),
        ]
        with m.If(is_csr):
            m.d.comb += port.resp.eq(Resp.DECERR)
            with m.Switch(port.address[2:REGION_SHIFT]):
                for name, offset in CSR.items():
                    with m.Case(offset >> 2):
                        m.d.comb += port.resp.eq(Resp.SLVERR)
                        if name in ("CTRL", "LIMIT"):
                            with m.If(whole & aligned):
                                m.d.comb += port.resp.eq(Resp.OKAY)
                                with m.If(port.ready):
                                    if name == "LIMIT":
                                        m.d.sync += control.limit.eq(port.data)
                                    else:
                                        m.d.sync += control.start.eq(port.data[0])
        with m.Elif((resp == Resp.OKAY) & ~(whole & in_order)):
            m.d.comb += port.resp.eq(Resp.SLVERR)
        # Speculative load: a piece is staged also while it waits, because the row is used when it is complete. It is not staged
        # while the row before is written.
        self._stage(m, good & ~self.window.we, piece, port.data)
        with m.If(stored):
            m.d.sync += expected.eq(port.address[2:] + 1)
        with m.If(control.running):
            m.d.sync += expected.eq(0)
        return commit, Cat(Const(0, len(self.window.piece)), region, index), piece

    def _stage(self, m, put, piece, value):
        """Keeps the pieces of the row that is being written: in registers if several are shown at once, else in a small memory."""
        window = self.window
        together = max(len(window.whole), len(window.wdata) if len(window.wdata) > 32 else 0)
        staged = Signal(data.ArrayLayout(32, row_pieces(together)), reset_less=True)
        with m.If(put), m.Switch(piece):
            for i in range(len(staged)):
                with m.Case(i):
                    m.d.sync += staged[i].eq(value)
        m.d.comb += window.whole.eq(staged)
        if len(window.wdata) > 32:
            m.d.comb += window.wdata.eq(staged)
            with m.If(self.control.running):
                m.d.sync += staged.eq(0)
            return
        m.submodules.row = row = SmallMemory(1 << len(piece), 32)
        m.d.comb += [row.w_en.eq(put), row.w_addr.eq(piece), row.w_data.eq(value), row.r_addr.eq(window.piece)]
        m.d.sync += window.wdata.eq(row.r_data)
        with m.If(~window.we):
            m.d.sync += window.wdata.eq(0)

    def _second(self, m, port, name):
        """Whether a request was there in the cycle before already: it stays until it is served."""
        return delay(m, port.valid & ~port.ready, 1, f"{name}_asked")
