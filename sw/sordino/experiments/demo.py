"""The demo: a plain and a sparse network for digits, trained, quantised, compiled, and run on the simulated gateware, which is
checked against the models."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import InputError, ToolError
from sordino_hw.spec.program import Program
from sordino_sim.rtl.backend import Verilator
from sordino_sim.rtl.build import library, verilator_environment
from sordino_sim.timing.model import Timing

from ..quantization import QuantizedModel, quantize
from ..runtime.accelerator import Accelerator
from ..runtime.compare import require_equal
from ..runtime.compile import compile
from ..runtime.speed import Speed, clock_of, transfers
from ..runtime.stats import Stats
from ..sparsity import sparsify
from ..table import Table
from ..train import accuracy
from .tasks import DIGITS, Trained, load_checkpoint, train_task

__all__ = ["Demo", "disagreements", "points", "run_demo", "verdict"]

METHOD = "star"

NETWORKS = Path(__file__).parent / "networks"
"""The two networks of the demo, trained with `sordino train` (seed 0) and rounded to half precision by `benchmarks/demo_networks.py`."""

CALIBRATION = 256
"""Training images that set the scales."""

DENSE_IMAGES = 2
"""Images run in dense mode: its cycles do not depend on the data."""

CUTS = (0.3, 0.5, 0.6)
"""Quantiles of the curve "threshold without training", for comparison."""


@dataclass
class _Network:
    """One network in all its forms, and its figures."""

    name: str
    trained: Trained
    quantised: QuantizedModel
    program: Program
    dense: Program
    figures: dict[str, Any] = field(default_factory=dict)


class Demo:
    """Runs the demo step by step; `figures` collects what goes into the JSON file and the report.

    Parameters
    ----------
    arch : the architecture
    images : test images that run on the RTL: a seeded choice, or all of them
    seed : of the choice of images, and of the training
    progress : a running `rich` display, to which the demo adds its tasks
    train : train both networks now, which gives other weights on another processor. Otherwise those in `NETWORKS` are taken, so that
        every machine counts the same cycles
    """

    def __init__(self, arch: str | ArchConfig, images: int | None, seed: int, progress: Progress, train: bool = False):
        self.arch, self.seed, self.progress, self.train_here = preset(arch), seed, progress, train
        data = DIGITS.data()
        self.train, (self.x, self.y) = data.train, data.test
        count = len(self.x) if images is None else images
        if not 1 <= count <= len(self.x):
            raise InputError(f"demo: --images must be from 1 to {len(self.x)}, the size of the test set, not {count}")
        chosen = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))[:count]
        self.chosen = chosen.sort().values
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Everything; returns the figures."""
        begin = time.perf_counter()
        verilator_environment()  # a missing tool is named now, not after the training
        with ThreadPoolExecutor(1) as pool:
            simulator = pool.submit(library, self.arch, quiet=True)
            with self._timed("train" if self.train_here else "load the networks"):
                plain, sparse = self._networks()
            with self._timed("compile"):
                networks = [self._build("plain ReLU", plain), self._build(METHOD.upper(), sparse)]
            with self._timed("wait for the simulator's build"):
                simulator.result()
        for n in networks:
            with self._timed(f"golden, {n.name}"):
                self._golden(n)
            with self._timed(f"RTL, {n.name}"):
                self._rtl(n)
        with self._timed("threshold without training"):
            cuts = [self._cut(plain, q) for q in CUTS]
        first, second = (n.figures for n in networks)
        self.seconds["all"] = time.perf_counter() - begin
        return {
            "arch": self.arch.to_dict(),
            "seed": self.seed,
            "method": METHOD,
            "trained_here": self.train_here,
            "test_images": len(self.x),
            "rtl_images": len(self.chosen),
            "networks": [first, second],
            "cuts": cuts,
            "comparison": {
                "fewer_nonzero_activations": first["rtl"]["stats"]["nonzero_activations"]
                / second["rtl"]["stats"]["nonzero_activations"],
                "fewer_cycles": first["rtl"]["stats"]["total"]["cycles"] / second["rtl"]["stats"]["total"]["cycles"],
                "accuracy_lost": first["accuracy"]["integer"] - second["accuracy"]["integer"],
            },
            "seconds": self.seconds,
        }

    def _networks(self) -> tuple[Trained, Trained]:
        if not self.train_here:
            return load_checkpoint(NETWORKS / "relu.safetensors"), load_checkpoint(NETWORKS / f"{METHOD}.safetensors")
        plain = train_task(DIGITS, "relu", self.seed, progress=self.progress)
        return plain, train_task(DIGITS, METHOD, self.seed, plain=plain.model, progress=self.progress)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _build(self, name: str, trained: Trained) -> _Network:
        quantised = quantize(trained.model, self.train[0][:CALIBRATION], self.arch)
        n = _Network(
            name,
            trained,
            quantised,
            compile(quantised, name=f"digits, {name}"),
            compile(quantised, dense=True, name=f"digits, {name}"),
        )
        n.figures = {"name": name, **trained.figures(), "accuracy": {"float": trained.test_accuracy}}
        return n

    def _golden(self, n: _Network) -> None:
        """Runs the whole test set on the golden model and on PyTorch's quantised model."""
        accelerator = Accelerator(n.program, progress=self._bar(f"{n.name}: golden model"))
        begin = time.perf_counter()
        logits = accelerator(self.x)
        elapsed = time.perf_counter() - begin
        reference = n.quantised(self.x)
        ours, theirs = logits.argmax(1), reference.argmax(1)
        n.figures["accuracy"] |= {
            "integer": float((ours == self.y).double().mean()),
            "torch_quantised": float((theirs == self.y).double().mean()),
        }
        n.figures["agreement"] = {
            "top1": float((ours == theirs).double().mean()),
            "disagreements": [
                {
                    "image": int(i),
                    "label": int(self.y[i]),
                    "integer": int(ours[i]),
                    "torch": int(theirs[i]),
                    "integer_logits": logits[i].tolist(),
                    "torch_logits": reference[i].tolist(),
                }
                for i in (ours != theirs).nonzero().flatten()
            ],
        }
        n.figures["golden"] = {"stats": accelerator.stats.to_dict(), "images_per_second": len(self.x) / elapsed}

    def _rtl(self, n: _Network) -> None:
        """Runs the chosen images on the RTL. Raises `ToolError` if it differs from the golden model or the timing model."""
        x, y = self.x[self.chosen], self.y[self.chosen]
        integers = {name: Accelerator(n.program).quantise(name, x) for name in n.program.inputs}
        between = tuple(name for name in n.program.tensors if name not in n.program.inputs)
        begin = time.perf_counter()
        with Verilator(n.program) as rtl:
            result = rtl.run(integers, between, progress=self._bar(f"{n.name}: RTL"))
            elapsed = time.perf_counter() - begin
        model = Timing(n.program).run(integers, between, progress=self._bar(f"{n.name}: models"))
        assert result.records is not None
        values = require_equal(n.program, result, model)
        with Accelerator(n.dense, "verilator") as acc:
            dense_out = acc.integers(next(iter(integers.values()))[:DENSE_IMAGES])
            dense = acc.stats
        if not np.array_equal(dense_out, result.outputs[n.program.outputs[0]][:DENSE_IMAGES]):
            raise ToolError(f"demo: {n.name}: dense mode gives other values.")
        stats = Stats.of(n.program, "verilator", result)
        logits = result.outputs[n.program.outputs[0]].reshape(len(x), -1)
        assert stats.total.cycles is not None and dense.total.cycles is not None
        n.figures["accuracy"]["rtl"] = float((torch.from_numpy(logits).argmax(1) == y).double().mean())
        n.figures["rtl"] = {
            "stats": stats.to_dict(),
            "values_compared": values,
            "records_compared": int(result.records.size),
            "cycles_per_second": float(stats.total.cycles * len(x) / elapsed),
            "dense_cycles": dense.total.cycles,
            "dense_layers": {x.name: x.cycles for x in dense.layers},
            "speedup_over_dense": dense.total.cycles / stats.total.cycles,
        }
        n.figures["time"] = Speed(stats.total.cycles, transfers(n.program), clock_of(self.arch)).to_dict()

    def _cut(self, plain: Trained, quantile: float) -> dict[str, Any]:
        """The plain network with thresholds but without sparse training, for comparison."""
        model = sparsify(plain.model, "star", calibration=self.train[0], quantile=quantile, strength=0.0)
        program = compile(quantize(model, self.train[0][:CALIBRATION], self.arch))
        accelerator = Accelerator(program, "timing")
        accelerator(self.x[self.chosen[:32]])
        assert accelerator.stats.total.cycles is not None
        return {"quantile": quantile, "accuracy": accuracy(model, (self.x, self.y)), "cycles": accelerator.stats.total.cycles}

    # -- display ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        task = self.progress.add_task(what, total=None, note="")
        begin = time.perf_counter()
        yield
        self.seconds[what] = time.perf_counter() - begin
        self.progress.update(task, visible=False)

    def _bar(self, label: str):
        task = self.progress.add_task(label, total=None, note="")

        def report(done: int, total: int) -> None:
            self.progress.update(task, completed=done, total=total, visible=done < total)

        return report


def run_demo(arch: str | ArchConfig, images: int | None, seed: int, progress: Progress, train: bool = False) -> dict[str, Any]:
    """Runs the demo and returns its figures (see docs/reference/figures.md).

    Raises `ToolError` where the RTL differs from the golden model or from the timing model, or cannot be built.
    """
    return Demo(arch, images, seed, progress, train).run()


def verdict(figures: Mapping[str, Any]) -> Table:
    """The one table of the demo."""
    a, b = figures["networks"]
    array = figures["arch"]
    multipliers = array["cores"] * array["lanes"]
    table = Table(title=f"Digits on {array['name']}, {multipliers} multipliers; {figures['rtl_images']} test images on the RTL")
    table.add_column("")
    for n in (a, b):
        table.add_column(n["name"], justify="right")

    def row(label: str, show) -> None:
        table.add_row(label, show(a), show(b))

    plain_cycles = a["rtl"]["stats"]["total"]["cycles"]
    tests, images = figures["test_images"], figures["rtl_images"]
    row(f"accuracy, float ({tests} images)", lambda n: f"{n['accuracy']['float']:.2%}")
    row(f"accuracy, integer, golden model ({tests} images)", lambda n: f"{n['accuracy']['integer']:.2%}")
    row(f"accuracy, RTL ({images} images)", lambda n: f"{n['accuracy']['rtl']:.2%}")
    row("top-1 agreement with PyTorch, quantised", lambda n: f"{n['agreement']['top1']:.2%}")
    table.add_section()
    row("activation density", lambda n: f"{n['rtl']['stats']['total']['density']:.1%}")
    row("non-zero activations an inference", lambda n: f"{n['rtl']['stats']['nonzero_activations']:,.0f}")
    row("cycles an inference (RTL)", lambda n: f"{n['rtl']['stats']['total']['cycles']:,.0f}")
    row("cycles in dense mode (RTL)", lambda n: f"{n['rtl']['dense_cycles']:,.0f}")
    row("speed-up over our own dense mode", lambda n: f"{n['rtl']['speedup_over_dense']:.2f} x")
    row("speed-up over the plain network", lambda n: f"{plain_cycles / n['rtl']['stats']['total']['cycles']:.2f} x")
    if a["time"]["clock_mhz"]:
        row(f"compute, µs at {a['time']['clock_mhz']:g} MHz", lambda n: f"{1e3 * n['time']['compute_ms']:.1f}")
        row("weights and link, µs", lambda n: f"{1e3 * (n['time']['load_ms'] + n['time']['link_ms']):.1f}")
        row(
            "frames/s; compute only",
            lambda n: f"{n['time']['frames_per_second']:,.0f}; {n['time']['compute_frames_per_second']:,.0f}",
        )
    row("η, part of the non-zero-MAC roofline", lambda n: f"{n['rtl']['stats']['total']['eta']:.3f}")
    table.add_section()
    row("RTL == golden", lambda n: f"{n['rtl']['values_compared']:,} values")
    row("RTL == timing model", lambda n: f"{n['rtl']['records_compared']:,} counters")
    return table


def points(value: float) -> str:
    """Points of accuracy with their sign; none where they round to zero."""
    text = f"{value:+.2f}"
    return "±0.00" if float(text) == 0 else text


def disagreements(figures: Mapping[str, Any]) -> list[str]:
    """Every test image on which the integers and PyTorch's quantised model name different digits, with the logits."""
    return [
        f"{n['name']}: test image {d['image']} (a {d['label']}): integers say {d['integer']} "
        f"({', '.join(f'{v:.2f}' for v in d['integer_logits'])}), PyTorch {d['torch']} ({', '.join(f'{v:.2f}' for v in d['torch_logits'])})"
        for n in figures["networks"]
        for d in n["agreement"]["disagreements"]
    ]
