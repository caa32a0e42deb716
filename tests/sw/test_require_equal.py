"""`require_equal` says where two back ends differ first, in values and in counters."""

import copy
from pathlib import Path

import numpy as np
import pytest

from sordino_hw.spec.errors import ToolError
from sordino_hw.spec.isa import PERF_FIELDS
from sordino_hw.spec.program import Program
from sordino_sim.timing.model import Timing

PROGRAM = Path(__file__).parents[1] / "hw" / "data" / "version2.sdn"


@pytest.fixture(scope="module")
def program():
    return Program.load(PROGRAM)


@pytest.fixture(scope="module")
def result(program):
    x = np.random.default_rng(0).integers(-60, 120, (3, 2, 4, 4)).astype(np.int16)
    return Timing(program).run({"input": x}, ("0", "2"))


def test_equal_results_are_counted(program, result):
    from sordino.runtime.compare import require_equal

    assert require_equal(program, result, copy.deepcopy(result)) == 3 * (6 * 4 * 4 + 6 * 2 * 2 + 3)


def test_the_first_layer_that_differs_is_named(program, result):
    from sordino.runtime.compare import require_equal

    other = copy.deepcopy(result)
    other.tensors["2"][1, 4, 0, 1] += 1
    other.outputs["4"][0] += 5
    with pytest.raises(
        ToolError, match=r"^the RTL differs from the timing model: tensor '2', layer '2' \(2\): image 1, channel 4, row 0, "
    ):
        require_equal(program, result, other)


def test_a_counter_that_differs_is_named(program, result):
    from sordino.runtime.compare import require_equal

    other = copy.deepcopy(result)
    other.records[2, 1, 0, PERF_FIELDS.index("words")] += 7
    with pytest.raises(
        ToolError, match=r"^a differs from b in performance record 1 of image 2, core 0, counter 'words': (\d+) / (\d+)\. "
    ):
        require_equal(program, result, other, ("a", "b"))
    other.records = None  # a back end without cycles has nothing to compare
    assert require_equal(program, result, other)
