"""`sordino bench fpga`: figures, cache and refusals, without the tools."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import sordino_hw
from sordino.cli import app
from sordino.experiments import fpga_bench as fpga_benchmark
from sordino.experiments.fpga_bench import bench_fpga, parse_seeds
from sordino.report import render
from sordino.report.schema import validate
from sordino_hw.fpga import DEVICES, CriticalPath, Hop, Routed, SlowGroup, Synthesis
from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import InputError, ToolError

ARCH, DEVICE = preset("icebreaker"), DEVICES["icebreaker"]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What the flow was called for; its results are made up, faster for lower seeds."""
    made = []
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path))
    monkeypatch.setattr(fpga_benchmark, "tool_versions", lambda tools: dict.fromkeys(tools, "1"))
    monkeypatch.setattr(fpga_benchmark, "require", lambda tools: None)
    monkeypatch.setattr(fpga_benchmark, "harness_of", lambda arch, device: SimpleNamespace(ports=[]))

    def synthesise(design, ports, device, folder):
        made.append("synthesis")
        return Synthesis(folder, {"SB_LUT4": 10}, 1.0)

    def place_and_route(netlist, device, seed, limit, progress):
        made.append(seed)
        if limit is not None and limit < 120:
            raise ToolError(f"Seed {seed} has no route: as placed it would run at 30 MHz by nextpnr's estimate.")
        path = CriticalPath((Hop("clk-to-q", 1.0, "a"), Hop("routing", 2.0, "b"), Hop("setup", 0.5, "b")), "a", "b")
        slow = (SlowGroup("core.left#.DI", "core.seen", 12, 33.4),)
        return Routed(seed, 30.0 - seed, {"LC": 4000, "DSP": 8}, {"LC": 5280, "DSP": 8}, path, slow)

    monkeypatch.setattr(fpga_benchmark, "synthesise", synthesise)
    monkeypatch.setattr(fpga_benchmark, "place_and_route", place_and_route)
    return made


def test_figures_and_cache(calls):
    seen = []
    figures = bench_fpga(ARCH, DEVICE, (1, 2, 4), lambda *args: seen.append(args))
    assert (figures["fmax_median_mhz"], figures["fmax_worst_mhz"]) == (28.0, 26.0)
    assert figures["used"] == {"LC": 4000, "DSP": 8} and figures["share"] == {"LC": 4000 / 5280, "DSP": 1.0}
    path = figures["runs"][0]["critical_path"]
    assert (path["source"], path["sink"], path["logic_ns"], path["routing_ns"], path["cells"]) == ("a", "b", 1.5, 2.0, 0)
    assert [done for done, _, _ in seen] == [0, 1, 2, 3]
    assert calls == ["synthesis", 1, 2, 4]
    assert bench_fpga(ARCH, DEVICE, (2, 3))["fmax_median_mhz"] == 27.5
    assert calls == ["synthesis", 1, 2, 4, 3]
    bench_fpga(ARCH.replace(perf_depth=16), DEVICE, (1,))
    assert calls[5:] == ["synthesis", 1]


def test_command(calls, tmp_path):
    out = tmp_path / "fpga.json"
    result = CliRunner().invoke(app, ["bench", "fpga", "--arch", "icebreaker", "--seeds", "1,2,3", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "Fmax: median 28.0 MHz, worst 27.0 MHz." in result.output and "LC 4,000 of 5,280 (75.8%)" in result.output
    assert re.search(r"33\.4 .* 12 .* core\.left#\.DI .* core\.seen", result.output), result.output
    validate(out.read_text(), "bench fpga")
    document = json.loads(out.read_text())
    assert "median of 3 seeds" in render(document)
    assert document["command"] == "bench fpga" and document["device"] == "iCE40UP5K" and len(document["runs"]) == 3
    assert document["runs"][0]["slow"] == [{"sink": "core.left#.DI", "source": "core.seen", "endpoints": 12, "delay": 33.4}]


def test_a_seed_without_a_route(calls):
    """What was measured before it is kept."""
    arguments = ["bench", "fpga", "--arch", "icebreaker", "--seeds"]
    assert CliRunner().invoke(app, [*arguments, "1"]).exit_code == 0
    result = CliRunner().invoke(app, [*arguments, "1,2", "--limit", "1"])
    assert result.exit_code == 2 and "Seed 2 has no route" in result.output
    assert calls == ["synthesis", 1, 2]


def test_speed_grades(calls):
    """That of the board, or another of the device; it is another device to the cache."""
    arguments = ["bench", "fpga", "--arch", "ecp5-25f", "--seeds", "1"]
    for speed, name in (((), "LFE5U-25F-6"), (("--speed", "8"), "LFE5U-25F-8")):
        result = CliRunner().invoke(app, [*arguments, *speed])
        assert result.exit_code == 0 and name in result.output, result.output
    assert calls == ["synthesis", 1] * 2
    result = CliRunner().invoke(app, [*arguments, "--speed", "9"])
    assert result.exit_code == 2 and "comes in the speed grades 6, 7, 8, not in 9." in " ".join(result.output.split())


def routed_elsewhere(netlist, device, seed, limit, said):
    """Instead of place and route, in a process of its own."""
    said.put((seed, "annealing"))
    time.sleep(1.5)
    if seed == 9:
        raise ToolError("Seed 9 has no route.")
    path = {"source": "a", "sink": "b", "logic_ns": 1.0, "routing_ns": 2.0, "cells": 0, "hops": []}
    size = {"used": {"LC": 1}, "available": {"LC": 2}}
    return {"seed": seed, "fmax_mhz": 30.0 - seed, **size, "critical_path": path, "slow": [], "seconds": os.getpid()}


def test_seeds_at_once(calls, monkeypatch):
    """By processes of their own; a seed that fails costs nothing of the others."""
    monkeypatch.setattr(fpga_benchmark, "_route_elsewhere", routed_elsewhere)
    seen = []
    figures = bench_fpga(ARCH, DEVICE, (1, 2, 3), lambda *args: seen.append(args), jobs=2)
    assert [run["seed"] for run in figures["runs"]] == [1, 2, 3] and figures["fmax_median_mhz"] == 28.0
    processes = {run["seconds"] for run in figures["runs"]}
    assert len(processes) == 2 and os.getpid() not in processes
    assert any("seed 1: annealing; seed 2: annealing" in note for _, _, note in seen)
    steps = [done for done, _, _ in seen]
    assert steps == sorted(steps) and steps[-1] == 4
    with pytest.raises(ToolError, match=r"^Seed 9 has no route\.$"):
        bench_fpga(ARCH, DEVICE, (9, 4), jobs=2)
    assert bench_fpga(ARCH, DEVICE, (1, 2, 3, 4))["fmax_worst_mhz"] == 26.0
    assert calls == ["synthesis"]


def test_a_netlist_is_kept_when_only_the_placer_changes(calls, monkeypatch):
    keys = fpga_benchmark._keys(ARCH, DEVICE, {})
    read = Path.read_bytes
    for changed, kept in (
        ("ecp5_pnr/placer/anneal.py", True),
        ("ecp5_pnr/chip.py", True),
        ("fpga/flow.py", False),
        ("gateware/fetch/scanner.py", False),
    ):
        assert (Path(sordino_hw.__file__).parent / changed).exists()
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=changed: read(path) + b"\nx = 1" * path.as_posix().endswith(name))
        netlist, flow = fpga_benchmark._keys(ARCH, DEVICE, {})
        assert (netlist == keys[0]) is kept and flow != keys[1]


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1", "1;2"])
def test_seeds_are_checked(text):
    with pytest.raises(InputError, match=r"^--seeds .*: give integers from 0 on, separated by commas, such as 1,2,3\.$"):
        parse_seeds(text)


def test_seeds():
    assert parse_seeds("3,1,3") == (3, 1)
