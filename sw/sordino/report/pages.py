"""Self-contained HTML pages from figures: no script, no font, no image from elsewhere."""

from collections.abc import Mapping
from typing import Any

import jinja2

from sordino_hw.spec.errors import InputError

from . import plots

__all__ = ["page"]

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("sordino.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def page(document: Mapping[str, Any]) -> str:
    """The HTML page of a `sordino demo`, `sordino run` or `sordino study` document. Raises `InputError` for any other."""
    pages = {"demo": _demo, "run": _run, "study": _study}
    command = document.get("command")
    if command not in pages:
        raise InputError(f"report: there is no page for figures of {command!r}; give those of {' or '.join(pages)}")
    try:
        return pages[command](document)
    except (KeyError, TypeError, IndexError, jinja2.UndefinedError) as error:
        raise InputError(f"report: the figures are incomplete or of another version ({type(error).__name__}: {error}).") from None


def _demo(d: Mapping[str, Any]) -> str:
    networks = d["networks"]
    figures = [
        ("Density", "Non-zero part of each layer's output.", plots.density(networks)),
        ("Cycles", "Cycles of each layer, mean of an inference, measured on the RTL.", plots.cycles(networks)),
        (
            "Where the cycles go",
            "What the issue stage did in each cycle.",
            plots.stalls([(n["name"], n["rtl"]["stats"]) for n in networks]),
        ),
        ("Accuracy against cycles", "Integer accuracy on the test set.", plots.accuracy(networks, d["cuts"])),
        ("Training", "Validation accuracy and activation density by epoch.", plots.training(networks)),
    ]
    return _ENVIRONMENT.get_template("demo.html.j2").render(d=d, plain=networks[0], sparse=networks[1], figures=figures)


def _study(d: Mapping[str, Any]) -> str:
    pareto = [
        (
            "Accuracy against cycles",
            "Integer accuracy on test data; cycles of an image, timing model (those of the RTL).",
            "cycles",
        ),
        ("Accuracy against density", "Integer accuracy on test data; non-zero part of the activations.", "density"),
    ]
    if any("changes" in g for g in d["groups"]):
        pareto.append(("Accuracy against changes", "Activations of a frame that differ from the frame before.", "changes"))
    figures = [(title, text, plots.pareto(d["groups"], key)) for title, text, key in pareto]
    return _ENVIRONMENT.get_template("study.html.j2").render(d=d, figures=figures)


def _run(d: Mapping[str, Any]) -> str:
    figures = []
    if d["stats"]["cycles"] is not None:
        figures.append(("Where the cycles go", "What the issue stage did in each cycle.", plots.stalls([(d["file"], d["stats"])])))
    return _ENVIRONMENT.get_template("run.html.j2").render(d=d, figures=figures)
