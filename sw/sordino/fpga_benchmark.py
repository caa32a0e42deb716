"""How fast and how large the accelerator is in an FPGA: synthesis, and place and route with several seeds."""

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sordino_hw
from sordino_hw.arch import ArchConfig
from sordino_hw.errors import InputError
from sordino_hw.files import replacing
from sordino_hw.fpga import Device, Routed, Synthesis, harness_of, place_and_route, synthesise, tool_versions
from sordino_hw.fpga.tools import require
from sordino_sim.build import cache_dir, locked

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


def _key(arch: ArchConfig, device: Device, tools: dict[str, str]) -> str:
    """Of everything that a netlist depends on."""
    digest = hashlib.sha256()
    root = Path(sordino_hw.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(repr((sorted(arch.to_dict().items()), device, sorted(tools.items()))).encode())
    return digest.hexdigest()[:20]


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds, or what `make` makes, which it holds from then on."""
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
) -> dict[str, Any]:
    """Synthesises `arch` for `device`, and places and routes it once for each seed.

    What was measured before is taken from the cache, as long as the gateware's sources, the architecture, the device and
    the tools are the same. The keys are in docs/cli.md. Raises `ToolError` if a tool is missing or fails, as it does
    where the design does not fit, or where place and route of a seed takes longer than `limit` seconds.
    """
    tools = tool_versions(("yosys", device.nextpnr))
    require(("yosys", device.nextpnr))
    folder = cache_dir().parent / "fpga" / _key(arch, device, tools)
    report = progress or (lambda done, total, note: None)
    with locked(folder / "lock"):
        report(0, len(seeds) + 1, "synthesis")
        synthesis = _kept(folder / "synthesis.json", lambda: _synthesise(arch, device, folder))
        netlist = Synthesis(folder, synthesis["cells"], synthesis["seconds"])
        runs = []
        for done, seed in enumerate(seeds, 1):

            def say(note: str, done: int = done, seed: int = seed) -> None:
                report(done, len(seeds) + 1, f"seed {seed}: {note}")

            say("place and route")
            kept = folder / f"seed_{seed}.json"
            runs.append(_kept(kept, lambda seed=seed, say=say: _route(netlist, device, seed, limit, say)))  # type: ignore[misc]
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


def _route(netlist: Synthesis, device: Device, seed: int, limit: float | None, say: Callable[[str], None]) -> dict[str, Any]:
    begin = time.perf_counter()
    routed = place_and_route(netlist, device, seed, limit=limit, progress=say)
    return _figures(routed, time.perf_counter() - begin)
