"""Latencies and depths that the gateware is built with and the timing model counts with. All in cycles or items."""

from .arch import ArchConfig

__all__ = [
    "CLOSE_LATENCY",
    "DEAL_LATENCY",
    "DONE_LATENCY",
    "DRAINED",
    "FREED",
    "LATENCY",
    "MULTIPLIER_LATENCY",
    "START_LATENCY",
    "Latencies",
]

LATENCY = 2
"""Cycles from a block memory's address to its data, output register included: block RAM is slow out of the array, so
nothing may stand between it and a register, unless the clock is slow: then a memory is made with a `latency` of 1."""

MULTIPLIER_LATENCY = 2
"""Cycles from a multiplier's operands to its product: registered before and after."""

START_LATENCY = 2
"""From the cycle in which CONV or VEC is next to the first in which it can start: its registers are checked meanwhile."""
DEAL_LATENCY = 2
"""From an operation's start to its first deal."""
FREED = 3
"""From the cycle in which a core closes an output, or a fetcher's walker takes a job, to the deal of another in its place."""
DRAINED = 4
"""From the last request of an operation to the first deal of one with another SPLIT."""
DONE_LATENCY = 4
"""From a store to the first cycle in which WAIT or HALT can know it."""
CLOSE_LATENCY = 4
"""From an operation's last issue to the first cycle in which its performance record can end."""
REQUANT_LATENCY = 8
"""Of the requantiser, from accumulator + bias to the clamped value."""


class Latencies:
    """Those that depend on the architecture (`ArchConfig.pipelining`)."""

    def __init__(self, arch: ArchConfig):
        fast = arch.pipelining == 2
        self.memory: int = arch.pipelining
        """From a memory's address to its row."""
        self.fifo: int = 2 if fast else 1
        """From an item's push to the first cycle in which it can leave."""
        self.outputs: int = 16 if fast else 2
        """Not a latency: outputs dealt to a core that it has not closed."""
        self.start: int = self.memory + self.fifo if fast else 1
        """Cycle in which the first instruction of a run can execute."""
        self.clip: int = 1 if fast else 3
        """From the cycle in which a span is walked to the first in which it is clipped."""
        self.split: int = 1 if fast else 0
        """From the cycle in which a span is clipped to the first in which the splitter takes it; 0: there is no register between."""
        self.row: int = self.memory + (2 + self.fifo if fast else 0)
        """From a row's request to the first cycle in which the scanner can look at it."""
        self.read: int = self.memory + (3 if fast else 0)
        """From a word's request to the cycle in which its fetcher shows it to the cores."""
        self.word: int = self.read + (1 if fast else 0) + self.fifo
        """From a word's request to the first cycle in which the segmenter can take it: a core registers its fetcher's word, or
        takes it as it comes."""
        self.issue: int = 2 if fast else 0
        """From the cycle in which an item is issued to the one in which its event is at the lanes."""
        self.shadow: int = self.issue + self.memory + (MULTIPLIER_LATENCY + 4 if fast else 2)
        """From the issue of an output's last item to the first cycle in which its first sums show."""
        self.pause: int = 0 if fast else arch.chunks
        """Cycles after the issue of an output's last item in which nothing is issued: the sums drain out of the accumulators."""
        self.turn_lead: int = self.memory + 1
        """From the turn of an output's first chunk to the first cycle in which its sums show."""
        self.summed: int = self.turn_lead + 1
        """From the turn of a chunk to the cycle in which it is added to its state."""
        self.chosen: int = self.summed + REQUANT_LATENCY + self.memory + 1
        """From the turn of a chunk to the cycle of its values before the threshold."""
        self.finished: int = self.chosen + 3
        """From the turn of a chunk to the cycle in which its part of the word is there."""
        self.store: int = self.finished + 1 - self.turn_lead
        """From the cycle in which a chunk's sums show to the first in which its word can be stored."""
        self.window: int = self.memory + 3 + 3 * (arch.cores > 1)
        """From the host's request of a piece of a row to the cycle in which the window shows it."""
