"""Random models of supported operators: never a traceback, `check`, `quantize` and `compile` agree, and every integer is exact."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from random_models import BLOCKS, HEADS, STEMS, Recipe, build, recipes

import sordino as sd
from sordino_hw.spec.errors import SordinoError

torch.set_num_threads(1)

ARCH = sd.PRESETS["ecp5-25f"].replace(
    name="deep", act_depth=1 << 13, weight_depth=1 << 13, mask_depth=1 << 12, param_depth=1 << 10, state_depth=1 << 11, tables=16, imem_depth=1 << 13
)  # fmt: skip


def run(recipe: Recipe, backend: str = "golden") -> str | None:
    """None for a model that runs exactly; what `check` says of one that is refused."""
    model, x = build(recipe)
    checked = sd.check(model, x[:1], arch=ARCH)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sd.QuantizationWarning)
            quantised = sd.quantize(model, x, arch=ARCH)
        program = sd.compile(quantised)
    except SordinoError as error:
        assert not checked.ok, f"check says ok, then: {error}"
        return str(error)
    assert checked.ok, checked.problems
    with sd.Accelerator(program, backend) as accelerator:
        found = sd.compare(quantised.graph, accelerator, x[:3])
    assert found, str(found)
    return None


def with_block(name: str, seed: int) -> Recipe:
    """A small model with the block, and a convolution before it."""
    stem, head = (name if name in table else plain for table, plain in ((STEMS, "plain"), (HEADS, "map_of_logits")))
    blocks = (("convolution", 2), *(((name, seed),) if name in BLOCKS else ()))
    return Recipe((stem, seed), blocks, (head, seed), (3, 8, 8))


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 8))])
@pytest.mark.parametrize("name", [*STEMS, *BLOCKS, *HEADS])
def test_every_block_is_accepted(name, seed):
    assert run(with_block(name, seed)) is None


OPTIONS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=8, **OPTIONS)
@given(recipes())
def test_random_models(recipe):
    run(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(40))
def test_a_thousand_random_models(part):
    @seed(part)
    @settings(max_examples=25, database=None, **OPTIONS)
    @given(recipes())
    def models(recipe):
        run(recipe)

    models()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_random_models_on_the_rtl(part):
    @seed(1000 + part)
    @settings(max_examples=4, database=None, phases=[Phase.generate], **OPTIONS)
    @given(recipes())
    def models(recipe):
        run(recipe, "verilator")

    models()
