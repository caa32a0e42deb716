"""Plots as SVG text that can stand inside a page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.text
import matplotlib.ticker
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["accuracy", "activation_memory", "cycles", "density", "pareto", "roofline", "stalls", "training", "utilisation"]

Network = Mapping[str, Any]

DENSE, COLOURS = "#9aa3ad", ("#3b6ea5", "#e07b39")
CAUSES = {"busy": "#3f8f5f", "fetch": "#e0b13a", "ppu": "#c8553d", "marker": "#8266a8", "memory": "#5a5a5a", "idle": "#c9ced4"}


def density(networks: Sequence[Network]) -> Markup:
    """Density of each layer's input."""
    stats = [n["rtl"]["stats"] for n in networks]
    names = [layer["name"] for layer in stats[0]["layers"]]
    figure, axes = _axes("density of the layer's input")
    for i, (n, s) in enumerate(zip(networks, stats, strict=True)):
        _bars(axes, i, len(networks), [x["density"] for x in s["layers"]], n["name"], COLOURS[i], "{:.0%}")
    _categories(axes, names)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return _svg(figure)


def cycles(networks: Sequence[Network]) -> Markup:
    """Cycles of each layer, dense mode beside the networks."""
    names = [layer["name"] for layer in networks[0]["rtl"]["stats"]["layers"]]
    figure, axes = _axes("cycles")
    count = 1 + len(networks)
    dense = networks[0]["rtl"]["dense_layers"]
    _bars(axes, 0, count, [dense[name] for name in names], "dense mode", DENSE, "{:,.0f}")
    for i, n in enumerate(networks):
        _bars(axes, i + 1, count, [x["cycles"] for x in n["rtl"]["stats"]["layers"]], n["name"], COLOURS[i], "{:,.0f}")
    _categories(axes, names)
    axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False)
    return _svg(figure)


def stalls(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    """Share of each cause in the cycles of each layer."""
    labels = [f"{name}, {x['name']}" if len(runs) > 1 else x["name"] for name, s in runs for x in (*s["layers"], s["total"])]
    rows = [x for _, s in runs for x in (*s["layers"], s["total"])]
    figure, axes = _axes("", height=0.7 + 0.3 * len(rows))
    left = [0.0] * len(rows)
    for cause, colour in CAUSES.items():
        share = [x["causes"][cause] / x["cycles"] if x["cycles"] else 0.0 for x in rows]
        if any(share):
            axes.barh(range(len(rows)), share, left=left, color=colour, label=cause, height=0.72)
            left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    axes.legend(frameon=False, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(figure)


def accuracy(networks: Sequence[Network], cuts: Sequence[Mapping[str, float]]) -> Markup:
    """Accuracy against cycles: the networks, dense mode, and thresholds without training."""
    figure, axes = _axes("accuracy")
    plain = networks[0]
    axes.scatter(
        [plain["rtl"]["dense_cycles"]], [plain["accuracy"]["integer"]], color=DENSE, s=60, label="plain, dense mode", zorder=3
    )
    start = [(plain["rtl"]["stats"]["total"]["cycles"], plain["accuracy"]["integer"])]
    curve = start + [(c["cycles"], c["accuracy"]) for c in cuts]
    axes.plot(
        *zip(*curve, strict=True), "o--", color=COLOURS[0], alpha=0.5, markersize=4, label="plain, thresholds without training"
    )
    for i, n in enumerate(networks):
        total = n["rtl"]["stats"]["total"]["cycles"]
        axes.scatter([total], [n["accuracy"]["integer"]], color=COLOURS[i], s=60, label=n["name"], zorder=4)
    axes.set_xlabel("cycles an inference")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 1))
    axes.legend(frameon=False)
    return _svg(figure)


def roofline(layers: Sequence[Mapping[str, Any]], arch: Mapping[str, Any]) -> Markup:
    """Non-zero MACs a cycle against non-zero MACs for each activation word read, one point for each layer, below two limits: all
    multipliers busy, and one word for each core and cycle."""
    figure, axes = _axes("non-zero MACs a cycle", height=4.0)
    top = arch["cores"] * arch["lanes"]
    points = [
        (x["nonzero_macs"] / x["words"], x["nonzero_macs"] / x["cycles"], x["name"])
        for x in layers
        if x["nonzero_macs"] and x["words"]
    ]
    least = min([arch["lanes"] / 8, *(x for x, _, _ in points)]) / 2
    most = max([arch["lanes"] * 8, *(x for x, _, _ in points)]) * 2
    knee = top / arch["cores"]
    axes.plot([least, knee, most], [least * arch["cores"], top, top], color=DENSE, linewidth=1.2, zorder=1)
    axes.annotate(f"{top} multipliers, η = 1", (most, top), textcoords="offset points", xytext=(-4, 4), ha="right", fontsize=8)
    for x, y, name in points:
        axes.scatter([x], [y], color=COLOURS[0], s=26, zorder=3)
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, -9), fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(top=top * 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,g}"))
    axes.set_xlabel("non-zero MACs for each activation word read")
    return _svg(figure)


def activation_memory(layers: Sequence[Mapping[str, Any]], depth: int) -> Markup:
    """Words in use by layer, and the line of what is there."""
    figure, axes = _axes("", height=0.9 + 0.22 * len(layers))
    words = [x["words"] for x in layers]
    colours = ["#c8553d" if w > depth else COLOURS[0] for w in words]
    bars = axes.barh(range(len(words)), words, color=colours, height=0.72)
    axes.bar_label(bars, labels=[f"{w:,}" for w in words], fontsize=7, padding=2)
    axes.axvline(depth, color="#1f2933", linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(words)), [x["layer"] for x in layers])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(depth, *words))
    axes.set_xlabel("words")
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    return _svg(figure)


def utilisation(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Markup:
    """η against activation density, one line for each layer."""
    figure, axes = _axes("η", height=4.0)
    palette = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for i, (name, points) in enumerate(lines):
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=name, color=palette[i % 20], markersize=3, linewidth=1)
    axes.set_xlabel("activation density")
    axes.set_ylim(0, 1.05)
    axes.set_xlim(0, 1.02)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def pareto(groups: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """Integer test accuracy against `key`, one line per method and cost, means and standard deviations over the seeds;
    the frontier (nothing else is both more accurate and lower) is drawn through."""
    figure, axes = _axes("accuracy", height=4.2)
    palette = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for i, (method, cost) in enumerate(dict.fromkeys((g["method"], g["cost"]) for g in groups)):
        mine = sorted((g for g in groups if (g["method"], g["cost"]) == (method, cost)), key=lambda g: g[key]["mean"])
        axes.errorbar(
            [g[key]["mean"] for g in mine],
            [g["integer_test"]["mean"] for g in mine],
            xerr=[g[key]["sd"] or 0 for g in mine],
            yerr=[g["integer_test"]["sd"] or 0 for g in mine],
            label=method if cost == "uniform" else f"{method}, {cost}",
            color=palette[i % 20],
            marker="o",
            markersize=4,
            linewidth=1,
            elinewidth=0.6,
        )
    best, frontier = 0.0, []
    for g in sorted(groups, key=lambda g: (g[key]["mean"], -g["integer_test"]["mean"])):
        if g["integer_test"]["mean"] > best:
            best = g["integer_test"]["mean"]
            frontier.append((g[key]["mean"], best))
    if frontier:
        axes.plot(*zip(*frontier, strict=True), color="#5a5a5a", linestyle=":", linewidth=1.2, label="frontier", zorder=1)
    axes.set_xlabel({"cycles": "cycles", "density": "density", "changes": "changed activations a frame"}[key])
    axes.set_xlim(left=0)
    if key == "density":
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    else:
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 1))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def training(networks: Sequence[Network]) -> Markup:
    """Validation score and density by epoch, one training after the other."""
    figure, axes = _axes("")
    first = 0
    for i, n in enumerate(networks):
        epochs = range(first, first + len(n["history"]))
        axes.plot(epochs, [e["score"] for e in n["history"]], color=COLOURS[i], label=f"{n['name']}: accuracy")
        axes.plot(epochs, [e["density"] for e in n["history"]], color=COLOURS[i], linestyle="--", label=f"{n['name']}: density")
        first += len(n["history"])
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    axes.legend(frameon=False)
    return _svg(figure)


def _axes(label: str, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(label)
    return figure, axes


def _bars(axes: Axes, index: int, count: int, values: Sequence[float], label: str, colour: str, text: str) -> None:
    width = 0.8 / count
    bars = axes.bar(
        [x + (index - (count - 1) / 2) * width for x in range(len(values))], values, width * 0.92, label=label, color=colour
    )
    axes.bar_label(bars, labels=[text.format(v) for v in values], fontsize=7, padding=1)


def _categories(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names)


def _svg(figure: Figure) -> Markup:
    """SVG without the prolog, metadata and namespaces that an HTML page does not need."""
    out = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sordino", "font.family": "sans-serif", "font.size": 9}),
        matplotlib.rc_context({"text.parse_math": False}),  # a name of a layer is no formula, whatever it contains
    ):
        for text in figure.findobj(matplotlib.text.Text):
            text.set_parse_math(False)
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    return Markup(svg)
