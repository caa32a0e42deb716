"""Latencies of the gateware in cycles, with which the timing model counts."""

from dataclasses import asdict, dataclass

from .arch import ArchConfig

__all__ = [
    "CLOSE_LATENCY",
    "DISPATCH_LATENCY",
    "DONE_LATENCY",
    "FREE_LATENCY",
    "LATENCIES",
    "LATENCY",
    "MULTIPLIER_LATENCY",
    "SPLIT_LATENCY",
    "START_LATENCY",
    "VECTOR_LATENCY",
    "Latencies",
    "ProfileLatencies",
]

LATENCY = 2
"""Cycles from a block memory's address to its data, output register included. The outputs of a block RAM settle late, so they go
straight to a register. The small profile, whose clock is slow, does without it: its memories have a latency of 1."""

MULTIPLIER_LATENCY = 2
"""Cycles from a multiplier's operands to its product: registered before and after."""

VECTOR_LATENCY = LATENCY
"""From a vector event's arrival at the lanes to its operands, which are registered beside their bytes of the weight row."""

START_LATENCY = 2
"""From the cycle in which CONV or VEC is the next instruction to the first in which it can start; its registers are checked meanwhile."""
DISPATCH_LATENCY = 2
"""From an operation's start to its first dispatch."""
FREE_LATENCY = 3
"""From the cycle in which a core closes an output, or a fetcher's walker takes a job, to the dispatch of another one in its place."""
SPLIT_LATENCY = 4
"""From the last read request of an operation to the first dispatch of an operation with another SPLIT."""
DONE_LATENCY = 4
"""From the last store of an operation to the first cycle in which a WAIT or HALT can end."""
CLOSE_LATENCY = 4
"""From an operation's last issue to the first cycle in which its performance record can end."""
REQUANT_LATENCY = 8
"""Of the requantiser, from accumulator + bias to the clamped value."""


@dataclass
class ProfileLatencies:
    """Latencies that the profile of an architecture decides (`arch.PROFILES`)."""

    memory: int
    """From a memory's address to its row."""
    fifo: int
    """From an item's push to the first cycle in which it can leave."""
    start: int
    """Cycle in which the first instruction of a run can execute."""
    clip: int
    """From the cycle in which a span is walked to the first in which it is clipped."""
    split: int
    """From the cycle in which a span is clipped to the first in which the splitter takes it; 0: there is no register between."""
    row: int
    """From a row's request to the first cycle in which the scanner can look at it."""
    read: int
    """From a word's request to the cycle in which its fetcher shows it to the cores."""
    serve: int
    """From the cycle in which a fetcher shows a word to the cycle in which the core takes it."""
    issue: int
    """From the cycle in which an item is issued to the one in which its event is at the lanes."""
    shadow: int
    """From the issue of an output's last item to the first cycle in which its first sums show."""
    chunk_pause: int
    """Cycles without issue after an output's last item, for each chunk of its sums: they are drained from the accumulators meanwhile."""
    show: int
    """From the cycle in which a memory shows a row to the cycle in which the host window shows it."""


LATENCIES = {
    "pipelined": ProfileLatencies(
        memory=LATENCY,
        fifo=2,
        start=4,
        clip=1,
        split=1,
        row=6,
        read=5,
        serve=1,
        issue=2,
        shadow=10,
        chunk_pause=0,
        show=1,
    ),
    "small": ProfileLatencies(
        memory=1,
        fifo=1,
        start=1,
        clip=3,
        split=0,
        row=1,
        read=1,
        serve=0,
        issue=0,
        shadow=3,
        chunk_pause=1,
        show=0,
    ),
}
"""By profile."""


class Latencies(ProfileLatencies):
    """Latencies of an architecture: those of its profile, and those that follow from them."""

    def __init__(self, arch: ArchConfig):
        super().__init__(**asdict(LATENCIES[arch.profile]))
        self.word: int = self.read + self.serve + self.fifo
        """From a word's request to the first cycle in which the segmenter can take it."""
        self.pause: int = self.chunk_pause * arch.chunks
        """Cycles without issue after an output's last item."""
        self.turn_lead: int = self.memory + 1
        """From the time slot of an output's first chunk to the first cycle in which its sums show."""
        self.summed: int = self.turn_lead + 1
        """From the time slot of a chunk to the cycle in which its state is added."""
        self.chosen: int = self.summed + REQUANT_LATENCY + self.memory + 1
        """From the time slot of a chunk to the cycle of its values before the threshold."""
        self.finished: int = self.chosen + 3
        """From the time slot of a chunk to the cycle in which its part of the output word is complete."""
        self.store: int = self.finished + 1 - self.turn_lead
        """From the cycle in which a chunk's sums show to the first in which its word can be stored."""
        self.window: int = self.memory + 3 + 3 * (arch.cores > 1)
        """From the host's request of a piece of a row to the cycle in which the host window shows it."""
