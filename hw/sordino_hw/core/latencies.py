"""Latencies and depths that the gateware is built with and the timing model counts with. All in cycles or items."""

from ..primitives import LATENCY

__all__ = [
    "CLIP_LATENCY",
    "CLOSE_LATENCY",
    "DEAL_LATENCY",
    "DONE_LATENCY",
    "DRAINED",
    "FIFO_LATENCY",
    "FREED",
    "OUTPUTS",
    "PIPELINE_START",
    "READ_LATENCY",
    "ROW_LATENCY",
    "SHADOW_LATENCY",
    "SPLIT_LATENCY",
    "START_LATENCY",
    "STORE_LATENCY",
    "TURN_LEAD",
    "WORD_LATENCY",
]

PIPELINE_START = 4
"""Cycle in which the first instruction of a run can execute."""
START_LATENCY = 2
"""From the cycle in which CONV or VEC is next to the first in which it can start: its registers are checked meanwhile."""
FIFO_LATENCY = 2
"""From an item's push to the first cycle in which it can leave."""
OUTPUTS = 16
"""Outputs dealt to a core that it has not closed."""
CLIP_LATENCY = 1
"""From the cycle in which a span is walked to the first in which it is clipped."""
SPLIT_LATENCY = 1
"""From the cycle in which a span is clipped to the first in which the splitter takes it."""
ROW_LATENCY = LATENCY + 2 + FIFO_LATENCY
"""From a row's request to the first cycle in which the scanner can look at it."""
READ_LATENCY = LATENCY + 3
"""From a word's request to the cycle in which its fetcher shows it to the cores."""
WORD_LATENCY = READ_LATENCY + 1 + FIFO_LATENCY
"""From a word's request to the first cycle in which the segmenter can take it: a core registers its fetcher's word."""
DEAL_LATENCY = 2
"""From an operation's start to its first deal."""
FREED = 3
"""From the cycle in which a core closes an output, or a fetcher's walker takes a job, to the deal of another in its place."""
DRAINED = 4
"""From the last request of an operation to the first deal of one with another SPLIT."""
SHADOW_LATENCY = 10
"""From the issue of an output's last item to the first cycle in which the shadow accumulators show its sums."""
TURN_LEAD = LATENCY + 1
"""From the turn of an output's first chunk to the first cycle in which the shadow accumulators show it."""
STORE_LATENCY = 16
"""From the cycle in which the shadow accumulators show a chunk to the first in which its word can be stored."""
DONE_LATENCY = 4
"""From a store to the first cycle in which WAIT or HALT can know it."""
CLOSE_LATENCY = 4
"""From an operation's last issue to the first cycle in which its performance record can end."""
