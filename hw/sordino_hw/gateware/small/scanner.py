"""The scanner of the small core."""

from ..fetch.scanner import Scanner, makes_requests, needs_no_slot
from ..lib.combinators import without_lowest

__all__ = ["SmallScanner"]


class SmallScanner(Scanner):
    """`Scanner` that decides about a row in the cycle in which it shows, without registers for it."""

    def _decide(self, m, left):
        row = self.rows.payload
        return self.rows.valid & makes_requests(row), needs_no_slot(row), without_lowest(left, self.arch.occ_width) == 0
