"""The pages: one function for each command, from its figures to a `Page`. No script, no font, no image from elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from sordino_hw.spec.errors import InputError

from . import bench_pages, plots
from .model import Card, Page, Section, Table, layer_table, ms, time_cards

__all__ = ["PAGES", "page"]

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("sordino.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)

Figures = Mapping[str, Any]


def page(document: Figures) -> str:
    """The HTML page of a command's document. Raises `InputError` for another document, and for incomplete figures."""
    command = document.get("command")
    if command not in PAGES:
        raise InputError(f"report: there is no page for figures of {command!r}; give those of {', '.join(PAGES)}.")
    try:
        made = PAGES[command](document)
        return _ENVIRONMENT.get_template("page.html.j2").render(page=made, versions=document["versions"])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, jinja2.UndefinedError) as error:
        raise InputError(f"report: the figures are incomplete or of another version ({type(error).__name__}: {error}).") from None


def _array(arch: Figures) -> str:
    return f"{arch['name']} ({arch['cores']} × {arch['lanes']} multipliers)"


def _demo(d: Figures) -> Page:
    plain, sparse = d["networks"]
    gain, networks = d["comparison"], d["networks"]
    lost = f"{-100 * gain['accuracy_lost']:+.2f}"
    cards = [
        Card(f"{gain['fewer_nonzero_activations']:.2f} ×", "fewer non-zero activations"),
        Card(f"{gain['fewer_cycles']:.2f} ×", "fewer cycles"),
        Card("±0.00" if float(lost) == 0 else lost, "points of accuracy"),
        Card(f"{sparse['rtl']['stats']['total']['eta']:.3f}", "of the non-zero-MAC roofline (η)"),
    ]
    runs = [(n["name"], n["rtl"]["stats"]) for n in networks]
    sections = [
        Section("The two networks", "Cycles are those of the RTL's counters, means of an inference.", _demo_table(d)),
        Section("Density", "Non-zero part of each layer's input.", plot=plots.density(networks)),
        Section("Cycles", "Of each layer, mean of an inference, measured on the RTL.", plot=plots.cycles(networks)),
        Section("Where the cycles go", "What the issue stage did in each cycle.", plot=plots.stalls(runs)),
        Section(
            "Accuracy against cycles",
            f"Integer accuracy on the {d['test_images']} test images.",
            plot=plots.accuracy(networks, d["cuts"]),
        ),
        Section("Training", "Validation accuracy and activation density by epoch.", plot=plots.training(networks)),
    ]
    for n in networks:
        lines = [
            f"Test image {x['image']} (a {x['label']}): the integers say {x['integer']}, PyTorch's quantised model {x['torch']}. "
            f"Logits {x['integer_logits']} / {x['torch_logits']}."
            for x in n["agreement"]["disagreements"]
        ]
        note = "Means of an inference, from the RTL's counters; η = non-zero MACs / (multipliers × cycles)."
        table = layer_table(n["rtl"]["stats"], n["time"]["clock_mhz"])
        sections.append(Section(f"{n['name']}, layer by layer", note, table, lines=lines))
    intro = (
        f"A small convolutional network for {plain['task']}, plain and with {sparse['name']}, "
        f"{'trained in this run' if d['trained_here'] else 'as it comes with Sordino'}, quantised, compiled for {_array(d['arch'])}, and "
        f"run on the simulated gateware: {d['rtl_images']} of {d['test_images']} test images."
    )
    again = f"sordino demo --arch {d['arch']['name']} --seed {d['seed']} --images {d['rtl_images']}{' --train' * d['trained_here']}"
    title = "Handwritten digits on an event-driven array"
    return Page(title, [intro], cards, sections, f"{again} ({d['seconds']['all']:.0f} s)")


def _demo_table(d: Figures) -> Table:
    tests, images = f"{d['test_images']} images", f"{d['rtl_images']} images"
    plain = d["networks"][0]["rtl"]["stats"]["total"]["cycles"]
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        (f"accuracy, float ({tests})", lambda n: f"{n['accuracy']['float']:.2%}"),
        (f"accuracy, integer, golden model ({tests})", lambda n: f"{n['accuracy']['integer']:.2%}"),
        (f"accuracy, RTL ({images})", lambda n: f"{n['accuracy']['rtl']:.2%}"),
        (f"top-1 agreement with PyTorch's quantised model ({tests})", lambda n: f"{n['agreement']['top1']:.2%}"),
        ("activation density", lambda n: f"{n['rtl']['stats']['total']['density']:.1%}"),
        ("non-zero activations an inference", lambda n: f"{n['rtl']['stats']['nonzero_activations']:,.0f}"),
        ("cycles an inference", lambda n: f"{n['rtl']['stats']['total']['cycles']:,.0f}"),
        ("cycles in dense mode", lambda n: f"{n['rtl']['dense_cycles']:,.0f}"),
        ("speed-up over our own dense mode", lambda n: f"{n['rtl']['speedup_over_dense']:.2f} ×"),
        ("speed-up over the plain network", lambda n: f"{plain / n['rtl']['stats']['total']['cycles']:.2f} ×"),
        ("η", lambda n: f"{n['rtl']['stats']['total']['eta']:.3f}"),
        ("compute", lambda n: ms(n["time"]["compute_ms"])),
        ("loading weights, for each image", lambda n: ms(n["time"]["load_ms"])),
        ("link", lambda n: ms(n["time"]["link_ms"])),
        ("RTL == golden model", lambda n: f"{n['rtl']['values_compared']:,} values"),
        ("RTL == timing model", lambda n: f"{n['rtl']['records_compared']:,} counters"),
    ]
    if d["networks"][0]["time"]["clock_mhz"] is None:
        rows = [r for r in rows if r[0] not in ("compute", "loading weights, for each image", "link")]
    return Table(["", *(n["name"] for n in d["networks"])], [[name, *map(show, d["networks"])] for name, show in rows])


def _run(d: Figures) -> Page:
    stats, arch = d["stats"], d["arch"]
    total, time = stats["total"], d["time"]
    cards = [Card(f"{total['density']:.1%}", "activation density")]
    sections = []
    if total["cycles"] is not None:
        cards = [Card(f"{total['cycles']:,.0f}", "cycles an image"), Card(f"{total['eta']:.3f}", "η"), *cards, *time_cards(time)]
        sections = [
            Section("Where the cycles go", "What the issue stage did in each cycle.", plot=plots.stalls([(d["file"], d["stats"])])),
            Section(
                "Roofline",
                "Multiplications of non-zero values in a cycle, against those that a word of activations is good for. The level line is "
                "every multiplier busy in every cycle (η = 1), the slope one word for each core and cycle.",
                plot=plots.roofline(stats["layers"], arch),
            ),
        ]
    mhz = time["clock_mhz"] if time else None
    table = Section("Layer by layer", "Means of an image. η = non-zero MACs / (multipliers × cycles).", layer_table(stats, mhz))
    intro = f"{stats['images']} images on the back end {stats['backend']}, architecture {_array(arch)}."
    return Page(d["file"], [intro], cards, [table, *sections])


def _check(d: Figures) -> Page:
    arch = d["arch"]
    cards, sections, intro = [], [], [f"Checked for {_array(arch)}, before any training."]
    if d["ok"]:
        at = next(p for p in d["predicted"] if p["density"] == d["advice"]["density"])
        cards = [Card("fits", arch["name"]), Card(f"{at['cycles']:,.0f}", f"cycles predicted at density {at['density']:g}")]
        cards += time_cards(at["time"])
        intro.append(f"{d['advice']['layer']} costs most, {d['advice']['share']:.0%} of the cycles: {d['advice']['text']}.")
        sections.append(Section("Predicted cycles", "At assumed densities of every activation, compute only.", _predicted(d)))
        rows = [[name, f"{m['used']:,}", f"{m['depth']:,}", f"{m['used'] / m['depth']:.0%}"] for name, m in d["memory"].items()]
        note = f"Of {d['segments']} program segment{'s' * (d['segments'] != 1)}, the fullest."
        sections.append(Section("Memory", note, Table(["memory", "rows used", "rows", "share"], rows)))
    else:
        cards = [Card("does not compile", f"for {arch['name']}")]
        cards += [Card("fits", name) for name in d["fits"]]
        intro.append(d["problem"])
    if d["activation_memory"]:
        sections.append(_activation_memory(d))
    operators = [
        [o["operator"], " × ".join(map(str, o["shape"])), o["becomes"] or f"not supported: {o['reason']}", o["source"]]
        for o in d["operators"]
    ]
    sections.append(Section("Operators", "", Table(["operator", "shape", "becomes", "where"], operators, text=True)))
    return Page(f"Check for {arch['name']}", intro, cards, sections)


def _predicted(d: Figures) -> Table:
    columns = d["predicted"]
    rows = [
        [x["name"], *(f"{p['layers'][i]['cycles']:,.0f}" for p in columns), f"{x['macs']:,}", columns[-1]["layers"][i]["bound"]]
        for i, x in enumerate(columns[0]["layers"])
    ]
    total = ["total", *(f"{p['cycles']:,.0f}" for p in columns), f"{sum(x['macs'] for x in columns[0]['layers']):,}", ""]
    return Table(["layer", *(f"{p['density']:g}" for p in columns), "MACs", "bound"], [*rows, total], total=True)


def _activation_memory(d: Figures) -> Section:
    depth = d["arch"]["act_depth"]
    over = [x for x in d["activation_memory"] if x["words"] > depth]
    note = f"Words in use while each layer runs; the line is what {d['arch']['name']} has, {depth:,} words of {d['arch']['lanes']} values."
    if over:
        note += f" {len(over)} of {len(d['activation_memory'])} layers need more: that is why it does not fit without tiles."
    return Section("Activation memory", note, plot=plots.activation_memory(d["activation_memory"], depth))


def _compile(d: Figures) -> Page:
    rows = [[x["name"], f"{x['macs']:,}", f"{x['zero_weights']:.1%}", x["mapping"], x["kind"], x["source"]] for x in d["layers"]]
    memory = [[name, f"{m['used']:,}", f"{m['depth']:,}", f"{m['used'] / m['depth']:.0%}"] for name, m in d["memory"].items()]
    intro = [f"{d['name']}, compiled for {_array(d['arch'])}{', as the dense baseline' * d['dense']}, to {d['file']}."]
    if d["random_weights"]:
        intro.append("The weights are random: the network is not trained, and its outputs mean nothing.")
    cards = [
        Card(f"{d['segments']}", f"program segment{'s' * (d['segments'] != 1)}"),
        Card(f"{d['operations']}", "operations"),
        Card(f"{d['transfers']['load_cycles']:,}", "cycles of the port to load weights, for each image"),
        Card(f"{d['transfers']['once_cycles']:,}", "cycles of the port to load the program once"),
    ]
    sections = [
        Section("Memory", "The fullest segment.", Table(["memory", "rows used", "rows", "share"], memory)),
        _activation_memory(d),
        Section("Layers", "", Table(["layer", "MACs", "zero weights", "cores", "kind", "source"], rows)),
    ]
    return Page(d["name"], intro, cards, sections)


def _train(d: Figures) -> Page:
    name = d.get("task") or d["model"]
    kind = d["method"] if isinstance(d["method"], str) else ", ".join(f"{k}={v or 'none'}" for k, v in d["method"].items())
    cards = [
        Card(f"{d['test_accuracy']:.2%}", "test accuracy"),
        Card(f"{d['validation_accuracy']:.2%}", "validation accuracy"),
        Card(f"{d['density']:.1%}", "activation density"),
    ]
    last = d["history"][-1] if d["history"] else {"densities": {}}
    rows = [[path, f"{value:.1%}"] for path, value in last["densities"].items()]
    network = {"name": kind, "history": d["history"]}
    sections = [Section("Training", "Validation accuracy and activation density by epoch.", plot=plots.training([network]))]
    if rows:
        sections.append(Section("Density by layer", "Validation data, last epoch.", Table(["layer", "density"], rows)))
    return Page(f"{name}, {kind}", [f"Checkpoint: {d['checkpoint']}. Seed {d['seed']}."], cards, sections)


def _study(d: Figures) -> Page:
    def spread(v: Figures, factor: float = 100, digits: int = 1) -> str:
        return f"{v['mean'] * factor:,.{digits}f}" + ("" if v["sd"] is None else f" ± {v['sd'] * factor:,.{digits}f}")

    def cells(r: Figures) -> list[str]:
        shares = (spread(r[k]) for k in ("integer_test", "integer_validation", "float_test", "density"))
        return [r["method"], spread(r["cycles"], 1, 0), *shares, f"{r['strength']:g}", r["cost"], str(r["seeds"])]

    s = d["settings"]
    head = [
        "method",
        "cycles",
        "test, integer, %",
        "validation, integer, %",
        "test, float, %",
        "density, %",
        "strength",
        "cost",
        "seeds",
    ]
    rows = [
        [*cells(r), f"{r['removed']:.0%}", f"{r['fewer_cycles']:.0%}", "yes" if r["within_budget"] else "no"] for r in d["rows"]
    ]
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
    sections = [
        Section(
            "By method",
            "The strength that validation data chooses.",
            Table([*head, "removed", "fewer cycles", "within budget"], rows),
        ),
        *(Section(title, note, plot=plots.pareto(d["groups"], key)) for title, note, key in pareto),
        Section("Every strength", "", Table(head, [cells(g) for g in d["groups"]])),
    ]
    if d["failed"]:
        lines = [f"{f['method']}, strength {f['strength']:g}, {f['cost']}, seed {f['seed']}: {f['error']}" for f in d["failed"]]
        sections.append(Section("Failed", lines=lines))
    intro = (
        f"{len(d['trials'])} trials ({d['pending']} pending, {len(d['failed'])} failed) on {s['arch']}. Figures are means ± standard "
        f"deviations over the seeds. Of the strengths that lose at most {100 * s['budget']:.1f} points against plain ReLU on validation "
        "data, the table has the one with the fewest cycles."
    )
    return Page(f"Sparsity methods on {s['task']}", [intro], [], sections)


PAGES: dict[str, Callable[[Figures], Page]] = {
    "demo": _demo,
    "train": _train,
    "check": _check,
    "compile": _compile,
    "run": _run,
    "study": _study,
    **bench_pages.PAGES,
}
