"""The host port of small boards: memory windows and control registers on a serial line.

A line of the usual kind: 8 data bits, least significant first, no parity, one stop bit. The host sends frames of
`FRAME` bytes: a command, a row, and the row's 64 bits, least significant byte first. `WRITE` writes a row; without it, the
port answers with the row's `ANSWER` bytes, and hears nothing until they are sent. Rows are as wide as they are in
`isa.region_bits`; bits above them are ignored, and read as zero.

Row k of `Region.CSR` holds the control registers at the addresses 8 k and 8 k + 4 of `isa.CSR`. LIMIT reads as zero. Bit 8 of
STATUS says that something was not heard, or not done, since it was last read: a byte without its stop bit, a command that
does not exist, a row that does not exist or cannot be written, a write to a memory while the machine runs.

A byte without its stop bit ends the frame, so a break on the line (a low level for longer than a byte) is where frames begin
anew, whatever came before.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, connect

from ...spec.arch import ArchConfig
from ...spec.errors import ArchError
from ...spec.isa import CSR, ID_VALUE, Region, region_bits, region_depth
from ...spec.latencies import Latencies
from ..cluster import Cluster
from .interfaces import ControlSignature, WindowSignature
from .port import READABLE, WRITABLE

__all__ = ["ANSWER", "FRAME", "LOST", "WRITE", "SerialPort", "SerialTop", "frame"]

FRAME, ANSWER = 11, 8
"""Bytes of a frame, and of an answer."""
WRITE = 0x10
"""Command: write a row of the `Region` in its low four bits."""
LOST = 8
"""Bit of STATUS: something was lost."""


def frame(region: Region, row: int, value: int | None = None) -> bytes:
    """The frame that writes `value` to a row, or, without one, asks for it."""
    command = region.value | (0 if value is None else WRITE)
    return bytes([command]) + row.to_bytes(2, "little") + (value or 0).to_bytes(8, "little")


class SerialPort(Component):
    """Drives a machine's windows and its run control from frames on `rx`; answers on `tx`.

    Nothing is buffered but the frame, in a shift register where its fields are in their places when the last bit is there, and in which
    an answer is shifted out. So a row is written whole or not at all.

    Parameters
    ----------
    arch : ArchConfig
        Of the profile `small`, with rows of at most 64 bits. Raises `ArchError`.
    divisor : int
        Clock cycles of a bit, at least 8.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line; high when idle. `rx` need not be synchronous.
    window : Out(WindowSignature(arch))
    control : Out(ControlSignature())
    """

    def __init__(self, arch: ArchConfig, divisor: int):
        widest = max(region_bits(arch, region) for region in (*WRITABLE, Region.PERF))
        if arch.profile != "small" or widest > 64:
            raise ArchError(
                f"architecture {arch.name!r}: a serial port needs profile='small' and rows of at most 64 bits, "
                f"not profile={arch.profile!r} and {widest} bits"
            )
        if divisor < 8 or divisor <= Latencies(arch).window:
            raise ValueError(f"a bit must take at least 8 cycles, not {divisor!r}")
        self.arch, self.divisor = arch, divisor
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1), "window": Out(WindowSignature(arch)), "control": Out(ControlSignature())}
        )

    def elaborate(self, platform):
        m = Module()
        window, control = self.window, self.control
        frame = Signal(8 * FRAME, reset_less=True)
        command, row, value = frame[:8], frame[8:24], frame[24:]
        held = Signal(2, init=3)
        rx = held[1]
        m.d.sync += held.eq(Cat(self.rx, held))

        # Of a byte bit 0 is the start and bit 9 the stop. One clock divider and two counters serve both ways.
        busy, sending, broken, lost = Signal(), Signal(), Signal(), Signal()
        cycle, bit, byte = Signal(range(self.divisor)), Signal(range(10)), Signal(range(FRAME))
        tick, shift, done, load = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            tick.eq(busy & (cycle == self.divisor - 1)),
            shift.eq(tick & (bit != 0) & (bit != 9)),
            done.eq(tick & (bit == 9) & ~sending & rx & (byte == FRAME - 1)),
            load.eq(tick & sending & (byte == 0) & (bit == 0)),
        ]
        m.d.sync += broken.eq(broken & ~rx)
        with m.If(busy):
            m.d.sync += cycle.eq(Mux(tick, 0, cycle + 1))
        with m.Elif(~rx & ~broken):
            m.d.sync += [busy.eq(1), cycle.eq(self.divisor // 2)]
        with m.If(tick):
            m.d.sync += bit.eq(bit + 1)
            with m.If(bit == 9):
                m.d.sync += [bit.eq(0), byte.eq(byte + 1), busy.eq(sending)]
                with m.If(sending & (byte == ANSWER - 1)):
                    m.d.sync += [sending.eq(0), busy.eq(0), byte.eq(0)]
                with m.If(~sending & (~rx | (byte == FRAME - 1))):
                    m.d.sync += [byte.eq(0), broken.eq(~rx)]
            with m.Elif((bit == 0) & ~sending & rx):
                m.d.sync += [busy.eq(0), bit.eq(0)]  # no start after all
        with m.If(shift):
            m.d.sync += frame.eq(Cat(frame[1:], rx))

        # What a frame asks for.
        region, writes, known, real = Signal(Region), command[4], Signal(), Signal()
        m.d.comb += [region.eq(command[:4]), real.eq(command[5:] == 0)]
        with m.Switch(command[:4]):
            for r in (Region.CSR, *WRITABLE, Region.PERF):
                rows = (max(CSR.values()) >> 3) + 1 if r is Region.CSR else region_depth(self.arch, r)
                with m.Case(r.value):
                    here = (r is Region.CSR) | ((r in WRITABLE) & writes) | ((r in READABLE) & ~writes)
                    m.d.comb += known.eq((row < rows) & here)
        csr, good = command[:4] == Region.CSR.value, Signal()
        m.d.comb += [
            good.eq(done & real & known & (csr | ~control.running)),
            window.region.eq(region),
            window.row.eq(row),
            window.wdata.eq(value),
            window.whole.eq(value),
            window.we.eq(good & writes & ~csr),
            window.re.eq(good & ~writes & ~csr),
            control.start.eq(good & writes & csr & (row == CSR["CTRL"] >> 3) & value[0]),
        ]
        with m.If(good & writes & csr & (row == CSR["LIMIT"] >> 3)):
            m.d.sync += control.limit.eq(value)
        # Whatever is asked for gets an answer.
        with m.If(done & ~(real & writes)):
            m.d.sync += [busy.eq(1), sending.eq(1), cycle.eq(0)]
        with m.If((done & ~good) | (tick & (bit == 9) & ~sending & ~rx)):
            m.d.sync += lost.eq(1)

        registers = {
            "ID": Const(ID_VALUE, 32),
            "HASH": Const(self.arch.hash, 32),
            "STATUS": Cat(control.running, control.halted, Const(0, 2), control.trap, lost),
            "PC": control.pc,
            "CYCLES": control.cycles,
            "OPS": control.ops,
        }
        answer = Signal(64)
        with m.If(~csr):
            m.d.comb += answer.eq(window.rdata)
        with m.Else(), m.Switch(row[:2]):
            for k in range(4):
                with m.Case(k):
                    pair = {name: registers.get(name, Const(0, 32)) for name, at in CSR.items() if at >> 3 == k}
                    for name, register in pair.items():
                        m.d.comb += answer.word_select(CSR[name] >> 2 & 1, 32).eq(register)
        with m.If(load):
            m.d.sync += value.eq(answer)
            with m.If(csr & (row[:2] == CSR["STATUS"] >> 3)):
                m.d.sync += lost.eq(0)

        tx = Signal(init=1)
        m.d.comb += self.tx.eq(tx)
        m.d.sync += tx.eq(~sending | Mux(bit == 0, 0, Mux(bit == 9, 1, value[0])))
        return m


class SerialTop(Component):
    """`SerialPort` and `Cluster`: the whole accelerator behind two pins.

    Parameters
    ----------
    arch : ArchConfig
    divisor : int
        Clock cycles of a bit.

    Members
    -------
    rx : In(1), tx : Out(1)
    """

    def __init__(self, arch: ArchConfig, divisor: int):
        self.port, self.cluster = SerialPort(arch, divisor), Cluster(arch)
        super().__init__({"rx": In(1, init=1), "tx": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.host, m.submodules.cluster = self.port, self.cluster
        m.d.comb += [self.port.rx.eq(self.rx), self.tx.eq(self.port.tx)]
        connect(m, self.port.window, self.cluster.window)
        connect(m, self.port.control, self.cluster.control)
        return m
