"""The splitter of the small core."""

from ..fetch.splitter import Splitter

__all__ = ["SmallSplitter"]


class SmallSplitter(Splitter):
    """`Splitter` that takes the next span in the cycle after the last row left, so that no stage before it waits for the
    scanner.
    """

    def _take(self, m, last):
        m.d.comb += self.i.ready.eq(~self.o.valid)
        with m.If(last & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        self._begin(m)
        return ~self.o.valid
