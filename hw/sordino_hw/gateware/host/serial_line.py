"""The serial line: frames in, answers out.

8 data bits, least significant first, no parity, one stop bit.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from ...spec.serial_frame import ANSWER, FRAME

__all__ = ["SerialLine"]


class SerialLine(Component):
    """Receives frames of `FRAME` bytes from `rx`, and sends answers of `ANSWER` bytes on `tx`, one at a time.

    Nothing is buffered but the frame, in a shift register where its fields are in their places when the last bit is there, and in
    which an answer is shifted out. A byte without its stop bit ends the frame; the next one begins when the line is high again.

    Throughput: a byte takes ten bits, each of `divisor` cycles. Latency: `rx` is synchronised in two cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles of a bit, at least 8.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line; high when idle. `rx` need not be synchronous.
    frame : Out(8 * FRAME)
        The first byte in the lowest bits; whole in the cycle of `received`, and until an answer is loaded.
    received : Out(1)
        A frame is complete in this cycle.
    broken : Out(1)
        In this cycle a byte without its stop bit ended a frame.
    answer : In(1)
        In a cycle of `received`: an answer is sent, and nothing is received until it is.
    load : Out(1), value : In(8 * ANSWER)
        The answer is taken from `value` in this cycle.
    """

    def __init__(self, divisor: int):
        if divisor < 8:
            raise ValueError(f"a bit must take at least 8 cycles, not {divisor!r}")
        self.divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1),
                "frame": Out(8 * FRAME),
                "received": Out(1),
                "broken": Out(1),
                "answer": In(1),
                "load": Out(1),
                "value": In(8 * ANSWER),
            }
        )

    def elaborate(self, platform):
        m = Module()
        frame, held = Signal(8 * FRAME, reset_less=True), Signal(2, init=3)
        rx, waiting = held[1], Signal()
        m.d.sync += [held.eq(Cat(self.rx, held)), waiting.eq(waiting & ~rx)]

        # Of a byte bit 0 is the start and bit 9 the stop. One clock divider and two counters serve both directions.
        busy, sending, tick, shift = Signal(), Signal(), Signal(), Signal()
        cycle, bit, byte = Signal(range(self.divisor)), Signal(range(10)), Signal(range(FRAME))
        m.d.comb += [
            tick.eq(busy & (cycle == self.divisor - 1)),
            shift.eq(tick & (bit != 0) & (bit != 9)),
            self.received.eq(tick & (bit == 9) & ~sending & rx & (byte == FRAME - 1)),
            self.broken.eq(tick & (bit == 9) & ~sending & ~rx),
            self.load.eq(tick & sending & (byte == 0) & (bit == 0)),
            self.frame.eq(frame),
        ]
        with m.If(busy):
            m.d.sync += cycle.eq(Mux(tick, 0, cycle + 1))
        with m.Elif(~rx & ~waiting):
            m.d.sync += [busy.eq(1), cycle.eq(self.divisor // 2)]
        with m.If(tick):
            m.d.sync += bit.eq(bit + 1)
            with m.If(bit == 9):
                m.d.sync += [bit.eq(0), byte.eq(byte + 1), busy.eq(sending)]
                with m.If(sending & (byte == ANSWER - 1)):
                    m.d.sync += [sending.eq(0), busy.eq(0), byte.eq(0)]
                with m.If(~sending & (~rx | (byte == FRAME - 1))):
                    m.d.sync += [byte.eq(0), waiting.eq(~rx)]
            with m.Elif((bit == 0) & ~sending & rx):  # too short for a start bit
                m.d.sync += [busy.eq(0), bit.eq(0)]
        with m.If(self.answer):
            m.d.sync += [busy.eq(1), sending.eq(1), cycle.eq(0)]

        with m.If(shift):
            m.d.sync += frame.eq(Cat(frame[1:], rx))
        with m.If(self.load):
            m.d.sync += frame[-8 * ANSWER :].eq(self.value)
        tx = Signal(init=1)
        m.d.comb += self.tx.eq(tx)
        m.d.sync += tx.eq(~sending | Mux(bit == 0, 0, Mux(bit == 9, 1, frame[-8 * ANSWER])))
        return m
