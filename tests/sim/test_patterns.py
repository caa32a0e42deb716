"""Cycles from patterns of zeros are those from values."""

import numpy as np
import pytest

from random_layers import random_case
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.errors import InputError
from sordino_sim.timing.model import Timing
from sordino_sim.timing.patterns import time_patterns


def test_equal_to_the_timing_model(seed):
    first = int(np.random.default_rng(seed).integers(1 << 31))
    for case_seed in range(first, first + 40):
        case = random_case(case_seed)
        program = compile_graph(case.graph, dense=case_seed % 5 == 0, reuse=False, mapping=case.mapping)
        inputs = {name: x[:1] for name, x in case.inputs.items()}
        result = Timing(program).run(inputs, tuple(program.tensors))
        patterns = {name: values[0] != 0 for name, values in result.tensors.items()}
        np.testing.assert_array_equal(time_patterns(program, patterns), result.records[0], f"seed {case_seed}: {case.description}")


def test_refuses_a_missing_or_wrong_pattern():
    program = compile_graph(random_case(0).graph, reuse=False)
    name = min(name for layer in program.layers for name in layer.inputs)
    with pytest.raises(InputError, match=rf"^tensor '{name}': a pattern of shape \(.*\) is needed, and is missing\.$"):
        time_patterns(program, {})
    with pytest.raises(InputError, match=r"is needed, and is wrong\.$"):
        time_patterns(program, {t: np.zeros((1, 1, 99), bool) for t in program.tensors})
