"""The segmenter of the small core."""

from ..issue.segmenter import Segmenter

__all__ = ["SmallSegmenter"]


class SmallSegmenter(Segmenter):
    """`Segmenter` without a FIFO: the issuer takes each item from where it is held.

    Throughput: as the issuer's. Latency: a cycle to the held item.
    """

    def _send(self, m, held, closed, push, room):
        m.d.comb += [
            room.eq(self.segments.ready),
            self.segments.payload.eq(held),
            self.segments.payload.end.eq(closed),
            self.segments.valid.eq(push),
        ]
