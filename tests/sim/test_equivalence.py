"""The project's central promise, on random layers and networks: graph == golden == RTL for every tensor, and
timing model == the RTL's performance log, cycle for cycle."""

import numpy as np
import pytest

from agreement import assert_agreement
from random_layers import ARCHS, random_case
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import ArchConfig

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
    assert_agreement(program, case.graph, case.inputs, f"seed {seed}: {case.description}")


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
