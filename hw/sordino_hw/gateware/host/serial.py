"""The host port of small boards: memory windows and control registers on a serial line.

Frames and answers are those of `spec.serial_frame`: the host sends a command, a row, and the row's 64 bits, least significant byte
first. `WRITE` writes a row; without it, the port answers with the row's bits, and receives nothing until they are sent. Rows are
as wide as they are in `isa.region_bits`; bits above them are ignored, and read as zero.

Row k of `Region.CSR` holds the control registers at the addresses 8 k and 8 k + 4 of `isa.CSR`. LIMIT reads as zero. Bit 8 of
STATUS says that something was lost, or refused, since STATUS was last read: a byte without its stop bit, a command that
does not exist, a row that does not exist or cannot be written, a write to a memory while the machine runs.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib.wiring import Component, In, Out, connect

from ...spec.address_map import READABLE, WRITABLE
from ...spec.arch import ArchConfig
from ...spec.errors import ArchError
from ...spec.isa import CSR, ID_VALUE, Region, region_bits, region_depth
from ...spec.latencies import Latencies
from ..cluster import Cluster
from .interfaces import ControlSignature, WindowSignature
from .serial_line import SerialLine

__all__ = ["SerialPort", "SerialTop"]


class SerialPort(Component):
    """Drives a machine's windows and its run control from frames on `rx`; answers on `tx`.

    A row is written whole or not at all.

    Throughput: that of the line; see `SerialLine`. Latency: an answer follows its frame at once.

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
        if divisor < 8 or divisor <= Latencies(arch).window:  # a row that is read shows before the first bit of the answer
            raise ValueError(f"a bit must take at least 8 cycles, not {divisor!r}")
        self.arch, self.line = arch, SerialLine(divisor)
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1), "window": Out(WindowSignature(arch)), "control": Out(ControlSignature())}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.line = line = self.line
        window, control = self.window, self.control
        command, row, value = line.frame[:8], line.frame[8:24], line.frame[24:]
        writes, is_csr, good = command[4], command[:4] == Region.CSR.value, Signal()
        is_command, reaches = command[5:] == 0, self._reaches(m, command[:4], row, writes)
        region = Signal(Region)
        m.d.comb += [
            line.rx.eq(self.rx),
            self.tx.eq(line.tx),
            region.eq(command[:4]),
            good.eq(line.received & is_command & reaches & (is_csr | ~control.running)),
            line.answer.eq(line.received & ~(is_command & writes)),  # also a request that is refused
            window.region.eq(region),
            window.row.eq(row),
            window.wdata.eq(value),
            window.whole.eq(value),
            window.we.eq(good & writes & ~is_csr),
            window.re.eq(good & ~writes & ~is_csr),
            control.start.eq(good & writes & is_csr & (row == CSR["CTRL"] >> 3) & value[0]),
        ]
        with m.If(good & writes & is_csr & (row == CSR["LIMIT"] >> 3)):
            m.d.sync += control.limit.eq(value)
        lost = Signal()
        with m.If((line.received & ~good) | line.broken):
            m.d.sync += lost.eq(1)
        with m.If(line.load), m.If(is_csr & (row[:2] == CSR["STATUS"] >> 3)):
            m.d.sync += lost.eq(0)
        m.d.comb += line.value.eq(self._answer(m, is_csr, row[:2], lost))
        return m

    def _reaches(self, m, region, row, writes):
        """Whether a region has a row, and this access to it."""
        known = Signal()
        with m.Switch(region):
            for r in (Region.CSR, *WRITABLE, Region.PERF):
                rows = (max(CSR.values()) >> 3) + 1 if r is Region.CSR else region_depth(self.arch, r)
                with m.Case(r.value):
                    here = (r is Region.CSR) | ((r in WRITABLE) & writes) | ((r in READABLE) & ~writes)
                    m.d.comb += known.eq((row < rows) & here)
        return known

    def _answer(self, m, is_csr, row, lost):
        """The bits of the row that is asked for: a pair of control registers, or what the window shows."""
        control, answer = self.control, Signal(64)
        registers = {
            "ID": Const(ID_VALUE, 32),
            "HASH": Const(self.arch.hash, 32),
            "STATUS": Cat(control.running, control.halted, Const(0, 2), control.trap, lost),
            "PC": control.pc,
            "CYCLES": control.cycles,
            "OPS": control.ops,
        }
        with m.If(~is_csr):
            m.d.comb += answer.eq(self.window.rdata)
        with m.Else(), m.Switch(row):
            for k in range(4):
                with m.Case(k):
                    pair = {name: registers.get(name, Const(0, 32)) for name, at in CSR.items() if at >> 3 == k}
                    for name, register in pair.items():
                        m.d.comb += answer.word_select(CSR[name] >> 2 & 1, 32).eq(register)
        return answer


class SerialTop(Component):
    """`SerialPort` and `Cluster`: the whole accelerator behind two pins. Throughput and latency are theirs.

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
