"""The pages of the benchmarks, of `sordino doctor` and of `sordino arch`."""

from collections.abc import Callable, Mapping
from typing import Any

from . import plots
from .model import Card, Page, Section, Table, ms

__all__ = ["PAGES"]

Figures = Mapping[str, Any]


def _array(arch: Figures) -> str:
    return f"{arch['name']} ({arch['cores']} × {arch['lanes']} multipliers)"


def _shape(s: Figures) -> str:
    return f"{s['kernel']}×{s['kernel']}, {s['cin']} → {s['cout']}, {s['size']}×{s['size']}, stride {s['stride']}"


def _layer(d: Figures) -> Page:
    if "layers" in d:
        return _suite(d)
    mhz = d["clock_mhz"]
    rows = [
        [
            f"{r['density']:g}",
            f"{r['cycles']:,.0f}",
            f"{r['eta']:.3f}" if r["nonzero_macs"] else "–",
            *((ms(r["cycles"] / mhz / 1e3),) if mhz else ()),
            f"{r['of_dense']:.2%}",
            f"{r['events']:,.0f}",
            f"{r['nonzero_macs']:,.0f}",
            r["mapping"],
        ]
        for r in d["rows"]
    ]
    head = ["density", "cycles", "η", *(("compute",) if mhz else ()), "of dense", "events", "non-zero MACs", "cores"]
    line = [("this layer", [(r["density"], r["eta"]) for r in d["rows"] if r["nonzero_macs"]])]
    sections = [
        Section("By activation density", f"Dense mode takes {d['dense_cycles']:,.0f} cycles.", Table(head, rows)),
        Section("Utilisation", "η = non-zero MACs / (multipliers × cycles).", plot=plots.utilisation(line)),
    ]
    return Page(
        _shape(d["shape"]), [f"One convolution on {_array(d['arch'])}, back end {d['backend']}, compute only."], [], sections
    )


def _suite(d: Figures) -> Page:
    densities = [r["density"] for r in d["layers"][0]["rows"]]
    rows = [
        [
            x["name"],
            *(f"{r['eta']:.3f}" if r["nonzero_macs"] else f"{r['of_dense']:.2%} of dense" for r in x["rows"]),
            _shape(x["shape"]),
        ]
        for x in d["layers"]
    ]
    lines = [(x["name"], [(r["density"], r["eta"]) for r in x["rows"] if r["nonzero_macs"]]) for x in d["layers"]]
    sections = [
        Section("η by activation density", "", Table(["layer", *(f"{x:g}" for x in densities), "shape"], rows)),
        Section("Utilisation", "η = non-zero MACs / (multipliers × cycles).", plot=plots.utilisation(lines)),
    ]
    return Page(
        f"Layer types on {d['arch']['name']}", [f"{_array(d['arch'])}, back end {d['backend']}, compute only."], [], sections
    )


def _network(d: Figures) -> Page:
    mhz = d["clock_mhz"]
    cards = [
        Card(f"{d['cycles']:,}", "cycles an image"),
        Card(f"{d['eta']:.4f}", "η"),
        Card(f"{d['speedup']:.2f} ×", "as fast as in dense mode"),
    ]
    if mhz:
        cards.append(Card(ms(d["cycles"] / mhz / 1e3), f"compute only, at {mhz:g} MHz"))
    rows = [
        [
            r["name"] + (f" + {r['added']}" if r["added"] else ""),
            f"{r['cycles']:,}",
            f"{r['eta']:.4f}" if r["macs"] else "–",
            f"{r['density']:.3f}",
            f"{r['dense_cycles']:,}",
            f"{r['macs']:,}",
            r["mapping"],
        ]
        for r in d["layers"]
    ]
    total = ["total", f"{d['cycles']:,}", f"{d['eta']:.4f}", "", f"{d['dense_cycles']:,}", f"{d['macs']:,}", ""]
    table = Table(["layer", "cycles", "η", "density", "dense cycles", "MACs", "cores"], [*rows, total], total=True)
    stats = {"layers": d["layers"], "total": {"name": "total", "cycles": d["cycles"], "causes": d["causes"]}}
    sections = [
        Section("Layer by layer", "Timing model, memory without limits; loading by the host is not counted.", table),
        Section("Where the cycles go", "What the issue stage did in each cycle.", plot=plots.stalls([("", stats)])),
    ]
    return Page(f"{d['workload']} on {d['arch']['name']}", [d["note"], f"{_array(d['arch'])}."], cards, sections)


def _tiny(d: Figures) -> Page:
    mhz = d["clock_mhz"]
    names, densities = (list(dict.fromkeys(r[key] for r in d["rows"])) for key in ("network", "wanted_density"))
    by = {(r["network"], r["wanted_density"]): r for r in d["rows"]}
    rows = [
        [
            f"{r['network']}, {r['model']}",
            f"{r['wanted_density']:g}",
            f"{r['cycles']:,.0f}",
            *((ms(r["ms"]),) if mhz else ()),
            f"{r['eta']:.2f}",
            f"{r['macs']:,}",
            "the architecture's" if r["memory"] == "architecture" else "deeper",
        ]
        for r in d["rows"]
    ]
    head = ["network", "density", "cycles", *(("compute",) if mhz else ()), "η", "MACs", "memories"]
    refused = [f"{n} does not fit: {r['refused']}" for n in names if (r := by[n, densities[0]])["refused"]]
    sections = [Section("By activation density", " ".join(refused), Table(head, rows))]
    if mhz:
        published = [[s, *("–" if t[n] is None else f"{t[n]:g}" for n in names)] for s, t in d["published_ms"].items()]
        ours = [[f"the array at {mhz:g} MHz, density {x:g}", *(f"{by[n, x]['ms']:.3f}" for n in names)] for x in densities]
        text = "Milliseconds an inference, 1000 / median throughput in MLPerf Tiny's public results; the array's without loading and links."
        sections.append(Section("Beside published latencies", text, Table(["system", *names], published + ours)))
    note = f"{_array(d['arch'])}, mean of {d['images']} inputs, random weights: accuracies are not measured."
    return Page(f"MLPerf Tiny on {d['arch']['name']}", [note], [], sections)


def _sim(d: Figures) -> Page:
    cards = [
        Card(f"{d['verilator_cycles_per_second'] / 1e6:.2f} million", "cycles a second, RTL in Verilator"),
        Card(f"{d['golden_images_per_second']:,.0f}", "digit images a second, golden model"),
        Card(f"{d['timing_images_per_second']:,.0f}", "digit images a second, timing model"),
    ]
    return Page(f"Simulators, {d['arch']['name']}", [f"{d['images']} images, {_array(d['arch'])}."], cards)


def _fpga(d: Figures) -> Page:
    cards = [
        Card(f"{d['fmax_median_mhz']:.1f} MHz", f"median of {len(d['runs'])} seeds"),
        Card(f"{d['fmax_worst_mhz']:.1f} MHz", "worst seed"),
        *(Card(f"{d['share'][name]:.1%}", f"{name}: {n:,} of {d['available'][name]:,}") for name, n in d["used"].items()),
    ]
    runs = [
        [
            str(r["seed"]),
            f"{r['fmax_mhz']:.1f}",
            f"{r['critical_path']['logic_ns']:.1f}",
            f"{r['critical_path']['routing_ns']:.1f}",
            f"{r['critical_path']['source']} to {r['critical_path']['sink']}, {r['critical_path']['cells']} cells",
        ]
        for r in d["runs"]
    ]
    slow = [[f"{g['delay']:.1f}", str(g["endpoints"]), g["sink"], g["source"]] for g in d["runs"][0]["slow"]]
    sections = [
        Section("By seed", "", Table(["seed", "Fmax, MHz", "logic, ns", "routing, ns", "slowest path"], runs, text=True)),
        Section(
            f"Slowest endpoints, seed {d['runs'][0]['seed']}", "", Table(["ns", "endpoints", "sink", "driven by"], slow, text=True)
        ),
    ]
    tools = ", ".join(d["tools"].values())
    return Page(
        f"{d['arch']['name']} on {d['device']}",
        [f"Place and route towards {d['target_mhz']:g} MHz. Tools: {tools}."],
        cards,
        sections,
    )


def _doctor(d: Figures) -> Page:
    rows = [
        [t["name"], "yes" if t["found"] else "no", t["version"] if t["found"] else t["remedy"], t["purpose"]] for t in d["tools"]
    ]
    text = "Everything that is required is there." if d["ok"] else "Something that is required is missing."
    return Page(
        "sordino doctor", [text], [], [Section("Tools", "", Table(["tool", "found", "version or remedy", "for"], rows, text=True))]
    )


def _archs(d: Figures) -> Page:
    found = d.get("architectures", [d])
    names = [n for n in found[0]["arch"] if n != "name"]
    rows = [[n, *(str(a["arch"].get(n, "")) for a in found)] for n in names]
    rows.append(["MHz, measured", *(f"{a['clock_mhz']:g}" if a["clock_mhz"] else "–" for a in found)])
    return Page("Architectures", [], [], [Section("Fields", "", Table(["field", *(a["arch"]["name"] for a in found)], rows))])


PAGES: dict[str, Callable[[Figures], Page]] = {
    "bench layer": _layer,
    "bench network": _network,
    "bench tiny": _tiny,
    "bench sim": _sim,
    "bench fpga": _fpga,
    "doctor": _doctor,
    "arch list": _archs,
    "arch show": _archs,
}
