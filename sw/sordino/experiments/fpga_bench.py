"""Clock frequency and size of the accelerator in an FPGA: synthesis, and place and route with several seeds."""

import dataclasses
import hashlib
import json
import multiprocessing
import queue
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import sordino_hw
from sordino_hw.fpga import Device, Routed, Synthesis, harness_of, place_and_route, synthesise, tool_versions
from sordino_hw.fpga.tools import require
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing
from sordino_hw.spec.sources import code_digest
from sordino_sim.cache import cache_dir, locked

__all__ = ["bench_fpga", "parse_seeds"]

Progress = Callable[[int, int, str], None]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `1,2,3`. Raises `InputError`."""
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0:
        raise InputError(f"--seeds {text}: give integers from 0 on, separated by commas, such as 1,2,3.")
    return seeds


def _keys(arch: ArchConfig, device: Device, tools: dict[str, str]) -> tuple[str, str]:
    """Keys of the cache: a digest of all that the netlist depends on, and one of all that placement and routing depend on."""
    sources = sorted(Path(sordino_hw.__file__).parent.rglob("*.py"))
    netlist = [path for path in sources if "ecp5_pnr" not in path.parts]
    return _digest(netlist, arch, device, tools), _digest(sources, arch, device, tools)


def _digest(sources: list[Path], arch: ArchConfig, device: Device, tools: dict[str, str]) -> str:
    depends = (code_digest(sources), sorted(arch.to_dict().items()), device, sorted(tools.items()))
    return hashlib.sha256(repr(depends).encode()).hexdigest()[:20]


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON document in the file; if there is no file yet, the result of `make`, which is written to it."""
    if path.exists():
        return json.loads(path.read_text())
    made = make()
    with replacing(path, InputError) as temporary:
        temporary.write_text(json.dumps(made))
    return made


def _figures(routed: Routed, seconds: float) -> dict[str, Any]:
    path = routed.path
    return {
        "seed": routed.seed,
        "fmax_mhz": routed.fmax,
        "used": routed.used,
        "available": routed.available,
        "critical_path": {
            "source": path.source,
            "sink": path.sink,
            "logic_ns": path.logic,
            "routing_ns": path.routing,
            "cells": path.levels,
            "hops": [dataclasses.asdict(hop) for hop in path.hops],
        },
        "slow": [dataclasses.asdict(group) for group in routed.slow],
        "seconds": seconds,
    }


def bench_fpga(
    arch: ArchConfig,
    device: Device,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    progress: Progress | None = None,
    limit: float | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Synthesises `arch` for `device`, and places and routes it once for each seed, `jobs` of them at a time.

    What was measured before is taken from the cache, as long as the sources of the gateware (for a netlist) and of the flow (for a
    seed), the architecture, the device and the tools are the same. The keys are in docs/reference/figures.md. Raises `ToolError` if a tool is
    missing or fails, as it does where the design does not fit, or where place and route of a seed takes longer than `limit` seconds.
    """
    tools = tool_versions(("yosys", device.nextpnr))
    require(("yosys", device.nextpnr))
    key, flow = _keys(arch, device, tools)
    folder = cache_dir("fpga") / key
    report = progress or (lambda done, total, note: None)
    with locked(folder / "lock"):
        report(0, len(seeds) + 1, "synthesis")
        synthesis = _kept(folder / "synthesis.json", lambda: _synthesise(arch, device, folder))
        netlist = Synthesis(folder, synthesis["cells"], synthesis["seconds"])
        runs = _seeds(netlist, device, seeds, folder / flow, limit, jobs, lambda done, note: report(done + 1, len(seeds) + 1, note))
    first = runs[0]
    return {
        "arch": arch.to_dict(),
        "device": device.name,
        "target_mhz": device.target,
        "tools": tools,
        "cells": synthesis["cells"],
        "synthesis_seconds": synthesis["seconds"],
        "fmax_median_mhz": statistics.median(run["fmax_mhz"] for run in runs),
        "fmax_worst_mhz": min(run["fmax_mhz"] for run in runs),
        "used": first["used"],
        "available": first["available"],
        "share": {name: n / first["available"][name] for name, n in first["used"].items()},
        "runs": [{k: v for k, v in run.items() if k not in ("used", "available")} for run in runs],
        "folder": str(folder),
    }


def _synthesise(arch: ArchConfig, device: Device, folder: Path) -> dict[str, Any]:
    harness = harness_of(arch, device)
    done = synthesise(harness, harness.ports, device, folder)
    return {"cells": done.cells, "seconds": done.seconds}


def _seeds(
    netlist: Synthesis,
    device: Device,
    seeds: Sequence[int],
    folder: Path,
    limit: float | None,
    jobs: int,
    report: Callable[[int, str], None],
) -> list[dict[str, Any]]:
    """The figures of all seeds, in their order. Figures that are not in `folder` are measured and stored there."""
    folder.mkdir(exist_ok=True)
    kept = {seed: folder / f"seed_{seed}.json" for seed in seeds}
    todo = [seed for seed in seeds if not kept[seed].exists()]
    if jobs > 1 and len(todo) > 1:
        for seed, figures in _at_once(
            netlist, device, todo, limit, jobs, lambda done, note: report(len(seeds) - len(todo) + done, note)
        ):
            _kept(kept[seed], lambda figures=figures: figures)  # type: ignore[misc]
    runs = []
    for done, seed in enumerate(seeds):

        def say(note: str, done: int = done, seed: int = seed) -> None:
            report(done, f"seed {seed}: {note}")

        if not kept[seed].exists():
            say("place and route")
        runs.append(_kept(kept[seed], lambda seed=seed, say=say: _route(netlist, device, seed, limit, say)))  # type: ignore[misc]
    return runs


def _at_once(
    netlist: Synthesis, device: Device, seeds: Sequence[int], limit: float | None, jobs: int, report: Callable[[int, str], None]
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Seeds and their figures in the order in which they finish, measured by `jobs` processes. If a seed fails, its error is raised
    after the seeds that were running have finished."""
    context = multiprocessing.get_context("spawn")
    notes: dict[int, str] = {}
    error: BaseException | None = None
    with context.Manager() as manager, ProcessPoolExecutor(min(jobs, len(seeds)), context) as pool:
        said = manager.Queue()
        running: dict[Future[dict[str, Any]], int] = {
            pool.submit(_route_elsewhere, netlist, device, seed, limit, said): seed for seed in seeds
        }
        done = 0
        while running:
            finished, _ = wait(running, 0.5, FIRST_COMPLETED)
            try:
                while True:
                    seed, note = said.get_nowait()
                    notes[seed] = note
            except queue.Empty:
                pass
            for future in finished:
                seed = running.pop(future)
                notes.pop(seed, None)
                done += 1
                if future.cancelled():
                    continue
                if reason := future.exception():
                    error = error or reason
                    for other in running:
                        other.cancel()
                else:
                    yield seed, future.result()
            report(done, "; ".join(f"seed {seed}: {note}" for seed, note in sorted(notes.items())))
    if error:
        raise error


def _route_elsewhere(netlist: Synthesis, device: Device, seed: int, limit: float | None, said: Any) -> dict[str, Any]:
    return _route(netlist, device, seed, limit, lambda note: said.put((seed, note)))


def _route(netlist: Synthesis, device: Device, seed: int, limit: float | None, say: Callable[[str], None]) -> dict[str, Any]:
    begin = time.perf_counter()
    routed = place_and_route(netlist, device, seed, limit=limit, progress=say)
    return _figures(routed, time.perf_counter() - begin)
