"""`sordino bench tiny`: densities as wanted, cycles by whole networks, published figures beside them."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sordino import zoo
from sordino.cli import app
from sordino.experiments.tiny_bench import NETWORKS, PUBLISHED, at_density, bench_tiny
from sordino.report import render
from sordino.report.schema import validate
from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import InputError

ARCH = preset("ulx3s-85f")


@pytest.mark.parametrize("density", [1.0, 0.45, 0.15])
@pytest.mark.parametrize("name", ["ds_cnn", "resnet8", "autoencoder"])
def test_every_relu_has_the_density(name, density):
    torch.manual_seed(0)
    model, x, found = zoo.model(name), torch.randn(24, *zoo.entry(name).shape), []
    at_density(model, x, density)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _x, y: found.append(float((y > 0).float().mean())))
    assert not model.training
    model(x)
    assert len(found) == {"ds_cnn": 9, "resnet8": 7, "autoencoder": 9}[name]
    assert found == pytest.approx([min(density, 0.99865)] * len(found), abs=0.01)


def test_sparse_networks_take_fewer_cycles_and_one_that_is_too_large_says_so(tmp_path):
    done = CliRunner().invoke(
        app, ["bench", "tiny", "--networks", "ad,ic", "-d", "1,0.2", "--json", str(tmp_path / "tiny.json")], env={"COLUMNS": "120"}
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "tiny.json").read_text()
    validate(text, "bench tiny")
    document = json.loads(text)
    rows = {(r["network"], r["wanted_density"]): r for r in document["rows"]}
    for name, memory in (("ad", "architecture"), ("ic", "deep")):
        dense, sparse = rows[name, 1.0], rows[name, 0.2]
        assert dense["memory"] == sparse["memory"] == memory
        assert sparse["cycles"] < 0.7 * dense["cycles"] and sparse["density"] < 0.4 < 0.9 < dense["density"]
        assert dense["cycles"] > dense["macs"] / document["multipliers"] * dense["density"]
        assert dense["ms"] == pytest.approx(dense["cycles"] / document["clock_mhz"] / 1e3)
    assert "act_depth" in rows["ic", 1.0]["refused"] and rows["ad", 1.0]["refused"] is None
    assert "ic does not fit" in done.output and "GAP9" in done.output
    page = render(document)
    assert "resnet8" in page


@pytest.mark.slow
def test_the_rtl_takes_the_same_cycles():
    """`ToolError` if it does not."""
    rows = bench_tiny(ARCH, ("kws", "ad"), (0.45,), rtl=True)["rows"]
    assert [r["on_rtl"] for r in rows] == [True, True]


def test_published_figures_are_of_the_four_networks():
    assert all(set(ms) == set(NETWORKS) for ms in PUBLISHED.values())


def test_wrong_arguments():
    with pytest.raises(InputError, match="unknown network 'cifar': MLPerf Tiny has kws, vww, ic, ad"):
        bench_tiny(ARCH, ("cifar",))
    with pytest.raises(InputError, match=r"a density is above 0 and at most 1, not 1\.5"):
        bench_tiny(ARCH, ("ad",), (1.5,))
