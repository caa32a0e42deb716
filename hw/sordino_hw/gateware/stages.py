"""Which class each stage of a core is built from: the one place that knows the profiles (`arch.PROFILES`)."""

from collections.abc import Callable
from dataclasses import dataclass

from ..spec.arch import ArchConfig
from .compute.lanes import Lanes
from .fetch.clip import Clip
from .fetch.occupancy import Occupancy
from .fetch.scanner import Scanner
from .fetch.splitter import Splitter
from .fetch.word_reader import WordReader
from .issue.issuer import Issuer
from .issue.segmenter import Segmenter
from .prefetch import Prefetch
from .small.clip import SmallClip
from .small.issuer import SmallIssuer
from .small.lanes import SmallLanes
from .small.occupancy import SmallOccupancy
from .small.prefetch import SmallPrefetch
from .small.scanner import SmallScanner
from .small.segmenter import SmallSegmenter
from .small.splitter import SmallSplitter
from .small.word_reader import SmallWordReader

__all__ = ["STAGES", "Stages", "stages_of"]


@dataclass(frozen=True)
class Stages:
    """The stages that differ between profiles: each is called with the `ArchConfig`, the scanner also with its fetcher's number."""

    prefetch: Callable[[ArchConfig], Prefetch]
    clip: Callable[[ArchConfig], Clip]
    splitter: Callable[[ArchConfig], Splitter]
    occupancy: Callable[[ArchConfig], Occupancy]
    scanner: Callable[[ArchConfig, int], Scanner]
    word_reader: Callable[[ArchConfig], WordReader]
    segmenter: Callable[[ArchConfig], Segmenter]
    issuer: Callable[[ArchConfig], Issuer]
    lanes: Callable[[ArchConfig], Lanes]
    masks_host_data: bool
    """Whether a core ignores the host's data while the machine runs: a serial port shifts in its frames then. Behind a host port
    that shows zero, no gates are needed."""


STAGES = {
    "pipelined": Stages(
        prefetch=Prefetch,
        clip=Clip,
        splitter=Splitter,
        occupancy=Occupancy,
        scanner=Scanner,
        word_reader=WordReader,
        segmenter=Segmenter,
        issuer=Issuer,
        lanes=Lanes,
        masks_host_data=False,
    ),
    "small": Stages(
        prefetch=SmallPrefetch,
        clip=SmallClip,
        splitter=SmallSplitter,
        occupancy=SmallOccupancy,
        scanner=SmallScanner,
        word_reader=SmallWordReader,
        segmenter=SmallSegmenter,
        issuer=SmallIssuer,
        lanes=SmallLanes,
        masks_host_data=True,
    ),
}
"""By profile."""


def stages_of(arch: ArchConfig) -> Stages:
    """The stages that an architecture is built from."""
    return STAGES[arch.profile]
