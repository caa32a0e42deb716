"""The project's central promise, on random layers and networks: graph == golden == RTL for every tensor, and
timing model == the RTL's performance log, cycle for cycle."""

import numpy as np
import pytest

from sordino_compiler.backend import compile_graph
from sordino_compiler.random_layers import ARCHS, random_case
from sordino_hw.spec.arch import ArchConfig
from sordino_sim.rtl.backend import Verilator
from sordino_sim.timing.model import Timing

BLOCK = 25
"""Cases per test."""


SMALL = next(arch for arch in ARCHS if arch.lanes == 8 and arch.cores == 1).replace(
    name="small", in_flight=1, profile="small", occ_width=8, segment_fifo=1, row_fifo=1
)
"""Two requantisers, unlike `icebreaker`, and memory for larger layers."""


def check_case(seed: int, arch: ArchConfig | None = None) -> None:
    case = random_case(seed, arch)
    rng = np.random.default_rng(seed)
    mapping = None if rng.random() < 0.2 else case.mapping
    program = compile_graph(case.graph, dense=bool(rng.random() < 0.15), reuse=bool(rng.random() < 0.15), mapping=mapping)
    kept = [name for name, t in program.tensors.items() if t.kept]
    expected = case.graph.run(case.inputs)
    predicted = Timing(program).run(case.inputs, kept)
    with Verilator(program, quiet=True) as rtl:
        measured = rtl.run(case.inputs, kept)
    what = f"seed {seed}: {case.description}"
    for name, values in predicted.tensors.items():
        if name in expected:
            np.testing.assert_array_equal(values, expected[name], f"golden against graph, {name}, {what}")
        np.testing.assert_array_equal(measured.tensors[name], values, f"RTL against golden, {name}, {what}")
    for name, values in measured.outputs.items():
        np.testing.assert_array_equal(values, expected[name], f"RTL against graph, {name}, {what}")
    np.testing.assert_array_equal(measured.records, predicted.records, f"timing model against RTL, {what}")


@pytest.mark.parametrize("block", range(8))
def test_random_cases(block, seed):
    """Other cases for every `SORDINO_SEED`; a failure names the seed of its case."""
    first = int(np.random.default_rng([*seed, block]).integers(1 << 31))
    for case in range(first, first + BLOCK):
        check_case(case)


@pytest.mark.parametrize("block", range(2))
def test_random_cases_on_a_small_core(block, seed):
    first = int(np.random.default_rng([*seed, block]).integers(1 << 31))
    for case in range(first, first + BLOCK):
        check_case(case, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(80))
def test_two_thousand_cases(block):
    for case in range(block * BLOCK, (block + 1) * BLOCK):
        check_case(case)
