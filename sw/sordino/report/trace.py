"""A timeline of one inference, from the performance records: a file in Chrome's trace event format, for https://ui.perfetto.dev.

Tracks: the host's port (input, loading of segments, output), the layers, and the operations of every core with what their cycles
went to. A record has counts and no order within it, so the parts of an operation are arguments, not slices; a counter track
shows the share of cycles in which each core issued.
"""

from typing import Any

import numpy as np

from sordino_hw.spec.isa import PERF_FIELDS
from sordino_hw.spec.program import Program

from ..runtime.speed import Clock, Transfers
from ..runtime.stats import CAUSES

__all__ = ["trace"]

PROCESS = 1
HOST, LAYERS, CORES = 1, 2, 10
"""Numbers of the tracks; the cores count from the last one on."""


def trace(program: Program, records: np.ndarray, transfers: Transfers, clock: Clock | None) -> dict[str, Any]:
    """The trace of one image, as a JSON document; times in microseconds, or in cycles without a clock.

    `records`: int64 [records, cores, fields], those of a segment's operations in turn and then one for its tail.
    """
    scale = 1.0 if clock is None else 1 / clock.mhz
    events: list[dict[str, Any]] = _names(program, clock)

    def slice_(track: int, name: str, begin: int, cycles: int, **arguments: Any) -> None:
        times = {"ts": begin * scale, "dur": cycles * scale}
        events.append({"name": name, "ph": "X", "pid": PROCESS, "tid": track, **times, "args": {"cycles": cycles, **arguments}})

    slice_(HOST, "write the input", 0, transfers.write)
    now, row = transfers.write, 0
    for number, (segment, load) in enumerate(zip(program.segments, transfers.loads, strict=True)):
        if load:
            slice_(HOST, f"load segment {number}", now, load)
            now += load
        for op in [*segment.ops, None]:
            record = records[row]
            row += 1
            cycles = int(record[0, : len(CAUSES)].sum())
            name = "end of segment" if op is None else program.layers[op.layer].name
            source = {} if op is None else {"kind": program.layers[op.layer].kind, "source": program.layers[op.layer].source}
            slice_(LAYERS, name, now, cycles, **source)
            for core, counts in enumerate(record.tolist()):
                slice_(CORES + core, name, now, cycles, **dict(zip(PERF_FIELDS, counts, strict=True)))
                share = counts[CAUSES.index("busy")] / cycles if cycles else 0.0
                counter = {"name": f"busy, core {core}", "ph": "C", "pid": PROCESS, "ts": now * scale}
                events.append({**counter, "args": {"share": share}})
            now += cycles
    slice_(HOST, "read the output", now, transfers.read)
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _names(program: Program, clock: Clock | None) -> list[dict[str, Any]]:
    unit = "1 us = 1 cycle" if clock is None else f"{clock.mhz:g} MHz"
    tracks = {HOST: "host port", LAYERS: "layers", **{CORES + c: f"core {c}" for c in range(program.arch.cores)}}
    title = f"{program.meta.get('name') or 'program'} on {program.arch.name}, {unit}"
    events: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": PROCESS, "args": {"name": title}}]
    for order, (track, name) in enumerate(tracks.items()):
        place = {"ph": "M", "pid": PROCESS, "tid": track}
        events.append({"name": "thread_name", **place, "args": {"name": name}})
        events.append({"name": "thread_sort_index", **place, "args": {"sort_index": order}})
    return events
