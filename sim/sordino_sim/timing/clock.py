"""The state of the pipeline between the operations of one run."""

from collections.abc import Mapping

import numpy as np

from sordino_hw.spec import isa, latencies, structure
from sordino_hw.spec.arch import MOST_IN_FLIGHT, ArchConfig

from .pipeline import (
    ARCHITECTURE,
    CLUSTER,
    CORE,
    EVENT,
    FIELDS,
    IN_FLIGHT,
    MAC,
    MAC2,
    MAX,
    MAX_FIFO,
    NEVER,
    OPERATION,
    REGISTERS,
    TIME,
    run,
)

__all__ = ["Clock"]

assert MOST_IN_FLIGHT == IN_FLIGHT
assert [kind.value for kind in structure.Kind] == [EVENT, MAC, MAC2, MAX]
assert isa.PERF_FIELDS == ("busy", "fetch", "ppu", "marker", "memory", "idle", "words", "skipped")
assert len(isa.PERF_FIELDS) == FIELDS


WORK = 1 << 18
"""Words and spans that the compiled loop goes through before it returns to the interpreter: some 50 ms."""


class Clock:
    """The pipeline's state between the operations of one run."""

    def __init__(self, arch: ArchConfig):
        by_arch = latencies.Latencies(arch)
        masks = [(1 << isa.address_bits(arch, memory)) - 1 for memory in (isa.Region.ACT, isa.Region.WEIGHT, isa.Region.MASK)]
        values = {
            **{name: getattr(arch, name) for name in ("cores", "ports", "row_fifo", "word_fifo", "segment_fifo", "wide_cycles")},
            "occ_bits": arch.occ_bits,
            "output_fifo": structure.output_depth(arch),
            **dict(zip(("act_mask", "weight_mask", "mask_mask"), masks, strict=True)),
            **{name: getattr(by_arch, name) for name in ("clip", "fifo", "split", "row", "word", "shadow", "store", "pause")},
            "dispatch": latencies.DISPATCH_LATENCY,
            "freed": latencies.FREE_LATENCY,
            "drained": latencies.SPLIT_LATENCY,
            "alone": structure.job_depth(arch) == 1,
        }
        assert values.keys() == ARCHITECTURE.keys() and values["output_fifo"] <= MAX_FIFO
        self._cluster = np.zeros(1, CLUSTER)
        self._cluster.view(TIME)[:] = NEVER
        for name, value in (*values.items(), ("groups", 0)):
            self._cluster[name] = value
        self._operation = self._cluster.view(TIME)[len(ARCHITECTURE) :][: len(OPERATION)]
        self._cores = np.zeros(arch.cores, CORE)
        self._cores.view(TIME)[:] = NEVER
        self._cores["index"] = np.arange(arch.cores)
        for name in ("held", "next_row", "next_word", "next_segment", "next_output"):
            self._cores[name] = 0

    @property
    def dispatched(self) -> int:
        """Cycle of the last dispatch."""
        return int(self._cluster["dispatched"][0])

    @property
    def closed(self) -> int:
        """Cycle in which the last output of the newest operation was closed."""
        return int(self._cluster["closed_last"][0])

    @property
    def stored(self) -> int:
        """Cycle of the last store of the newest operation."""
        return int(self._cluster["stored_last"][0])

    def record(self, operation: int) -> np.ndarray:
        """A view of what the record of one of the last operations holds so far: int64 [cores, FIELDS]."""
        return self._cores["records"][:, operation % IN_FLIGHT]

    def finish(self, operation: int, end: int) -> None:
        """Says which cycle is the last of an operation's record: what happens up to it is counted there from now on."""
        self._cluster["ends"][0, operation % IN_FLIGHT] = end

    def run(
        self,
        operation: int,
        registers: Mapping[str, int],
        kind: int,
        dense: bool,
        residual: bool,
        product: bool,
        window: bool,
        stateful: bool,
        started: int,
        nonzero: np.ndarray,
        occupied: np.ndarray,
        masks: np.ndarray,
        limit: int = 1 << 62,
    ) -> bool:
        """Advances by the operation of number `operation`, started in cycle `started`. Returns whether it ends by cycle `limit`;
        if not, it is followed a little further, and no other can follow.

        Interrupts are heard several times a second, and other threads run meanwhile.

        Parameters
        ----------
        registers
            By name (`isa.REGISTERS`).
        stateful : bool
            SOURCE or SINK: the outputs are dispatched to the core groups in order.
        nonzero : uint8 [words, lanes / 8]
            A bit per activation that is not zero.
        occupied : bool [words]
        masks : uint8 [cores, rows, lanes / 8]
            A bit per weight row that is not zero.
        """
        values = (operation, kind, dense, residual, product, window, stateful, started, *(registers[name] for name in REGISTERS))
        self._operation[:] = values
        self.record(operation)[:] = 0
        self._cluster["begun"] = 0
        while not run(self._cluster, self._cores, nonzero, occupied, masks, WORK):
            if self.closed > limit:
                return False
        return self.closed <= limit
