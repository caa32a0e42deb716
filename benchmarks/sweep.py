"""Why 4 x 32: `python benchmarks/sweep.py --json FILE [--plot FILE.svg] [--area] [--only NAME ...]` or `... --fifos`.

Configurations of 32 to 128 multipliers, all with the same memory in bytes and one requantiser for every four lanes (except
where the name says otherwise): how many non-zero MACs a cycle they do on each workload (timing model, ideal memory), and what they
take of an ECP5-85F (Yosys; `--area`, minutes for each).

FILE is read first and completed, so a sweep can be interrupted and continued. Keys: `seed`; `rows`: by configuration `arch`,
`multipliers`, `eta` by workload, `mean_eta` (geometric mean over the workloads), `rate` (non-zero MACs a cycle: `mean_eta` x
multipliers), and with `--area` `area`: `LUT` (LUT4s, two for a carry cell, six for 16 x 4 bits of
distributed RAM), `FF`, `BRAM`, `DSP`, summed over the parts: the multiplexers between them are left out; `parts`: their cells.

`--fifos` prints instead what the depths of the preset's FIFOs are worth.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from amaranth.hdl import Value
from amaranth.lib import wiring

from sordino.experiments.network_bench import bench_network
from sordino.experiments.workloads import load_workload
from sordino_hw.fpga import device_of, synthesise
from sordino_hw.gateware.core import Core
from sordino_hw.gateware.dispatcher import Dispatcher
from sordino_hw.gateware.fetch.fetcher import Fetcher
from sordino_hw.gateware.memory.activations import ActivationMemory
from sordino_hw.gateware.sequencer import Sequencer
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import SordinoError
from sordino_hw.spec.files import replacing

WORKLOADS = ("resnet50-ucf101-spatial-l1", "resnet50-ucf101-delta", "mobilenetv2-0.5", "mobilenetv2-0.2")
FOLDER = Path(__file__).parent / "workloads"


def _arch(cores: int, lanes: int, ports: int, ppu: int) -> ArchConfig:
    """The preset's memories in bytes, cut for other cores and lanes."""
    base = preset("ulx3s-85f")
    return base.replace(
        name=f"{cores}x{lanes}, {ports} port{'s' * (ports > 1)}, {ppu} requantisers",
        cores=cores,
        lanes=lanes,
        ports=ports,
        ppu=ppu,
        act_depth=base.act_depth * base.lanes // lanes,
        weight_depth=base.weight_depth * 128 // (cores * lanes),
        mask_depth=base.mask_depth * base.lanes // lanes,
        state_depth=base.state_depth * 4 * base.ppu // (cores * ppu),
    )


CONFIGURATIONS = [
    _arch(*c)
    for c in (
        (1, 32, 1, 8),
        (1, 64, 1, 16),
        (1, 128, 1, 32),
        (2, 32, 1, 8),
        (2, 32, 2, 8),
        (2, 64, 1, 16),
        (2, 64, 2, 16),
        (4, 16, 2, 4),
        (4, 32, 1, 8),
        (4, 32, 2, 4),
        (4, 32, 2, 8),
        (4, 32, 2, 16),
        (4, 32, 4, 8),
        (8, 16, 2, 4),
        (8, 16, 4, 4),
    )
]


def _area(arch: ArchConfig, known: dict[str, dict[str, int]]) -> dict[str, int]:
    """Cells of dispatcher, sequencer, fetchers, cores and the memories; host port, run control and what is between them are left out.

    `known` keeps what a part takes, by part and the fields of the architecture that it depends on.
    """
    cores = arch.cores
    parts: dict[str, tuple[int, Callable[[], wiring.Component]]] = {
        f"core {arch.lanes} {arch.ppu} {cores} {arch.weight_depth} {arch.state_depth}": (cores, lambda: Core(arch)),
        f"fetcher {arch.lanes} {arch.ports} {cores} {arch.act_depth}": (cores, lambda: Fetcher(arch, cores - 1)),
        f"dispatcher {cores}": (1, lambda: Dispatcher(arch)),
        "sequencer": (1, lambda: Sequencer(arch)),
        f"activations {arch.lanes} {arch.ports} {cores} {arch.act_depth}": (1, lambda: ActivationMemory(arch)),
    }
    total = dict.fromkeys(("LUT", "FF", "BRAM", "DSP"), 0)
    for key, (count, make) in parts.items():
        if key not in known:
            part = make()
            ports = [Value.cast(v) for _, _, v in part.signature.flatten(part)]
            with tempfile.TemporaryDirectory() as folder:
                cells = synthesise(part, ports, device_of(arch, "ulx3s-85f"), Path(folder)).cells
            lut = cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0) + 6 * cells.get("TRELLIS_DPR16X4", 0)
            used = (lut, *(cells.get(name, 0) for name in ("TRELLIS_FF", "DP16KD", "MULT18X18D")))
            known[key] = dict(zip(total, used, strict=True))
        for name, n in known[key].items():
            total[name] += count * n
    return total


def _plot(rows: list[dict], path: Path) -> None:
    """Rate over LUTs; the line joins the configurations that no other beats in both."""
    from matplotlib.figure import Figure

    rows = sorted((r for r in rows if "area" in r), key=lambda r: r["area"]["LUT"])
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    best, front = 0.0, []
    for r in rows:
        if r["rate"] > best:
            best = r["rate"]
            front.append(r)
    axes.plot([r["area"]["LUT"] / 1000 for r in front], [r["rate"] for r in front], color="#9aa3ad", zorder=1)
    for n, r in enumerate(rows, 1):
        x, y, name = r["area"]["LUT"] / 1000, r["rate"], r["arch"]["name"]
        axes.scatter(x, y, color="#e07b39" if r in front else "#3b6ea5", zorder=2, label=f"{n}  {name}; η {r['mean_eta']:.2f}")
        axes.annotate(str(n), (x, y), textcoords="offset points", xytext=(5, -3), fontsize=8)
    figure.legend(loc="outside right center", fontsize=8, handlelength=1)
    axes.set_xlabel("LUTs of the ECP5, thousands")
    axes.set_ylabel("non-zero MACs a cycle (mean η x multipliers)")
    axes.margins(0.08)
    figure.savefig(path, metadata={"Date": None})


def _print(rows: list[dict]) -> None:
    print(
        f"{'configuration':<36}"
        + "".join(f"{w[-14:]:>16}" for w in WORKLOADS)
        + f"{'mean':>8}{'rate':>8}{'LUT':>8}{'BRAM':>6}{'DSP':>5}"
    )
    for r in rows:
        area = r.get("area", {})
        print(
            f"{r['arch']['name']:<36}"
            + "".join(f"{r['eta'][w]:>16.3f}" for w in WORKLOADS)
            + f"{r['mean_eta']:>8.3f}{r['rate']:>8.1f}"
            + "".join(f"{area.get(k, '-'):>{n}}" for k, n in (("LUT", 8), ("BRAM", 6), ("DSP", 5)))
        )


def _fifos(seed: int) -> None:
    """η of the preset with one FIFO's depth changed."""
    base, names = preset("ulx3s-85f"), ("resnet50-ucf101-delta", "mobilenetv2-0.5")
    changes = [{}, *({fifo: depth} for fifo in ("row_fifo", "word_fifo", "segment_fifo") for depth in (4, 12, 16))]
    for change in changes:
        eta = [bench_network(load_workload(FOLDER / f"{w}.json"), base.replace(**change), seed)["eta"] for w in names]
        print(", ".join(f"{k} {v}" for k, v in change.items()) or "preset", *(f"{x:.3f}" for x in eta), sep="\t", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--plot", type=Path, metavar="FILE")
    p.add_argument("--area", action="store_true")
    p.add_argument("--fifos", action="store_true")
    p.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="configurations whose name starts so")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if a.fifos:
        _fifos(a.seed)
        return
    if a.json is None:
        p.error("--json FILE is needed")
    kept = json.loads(a.json.read_text()) if a.json.exists() else {"rows": [], "parts": {}}
    done, parts = {r["arch"]["name"]: r for r in kept["rows"]}, kept.get("parts", {})

    def keep() -> list[dict]:
        rows = [done[c.name] for c in CONFIGURATIONS if c.name in done]
        with replacing(a.json, SordinoError) as temporary:
            temporary.write_text(json.dumps({"seed": a.seed, "rows": rows, "parts": parts}, indent=1) + "\n")
        return rows

    for arch in CONFIGURATIONS:
        if a.only and not any(arch.name.startswith(text) for text in a.only):
            continue
        if arch.name not in done:
            print(f"{arch.name}: workloads ...", flush=True)
            eta = {w: bench_network(load_workload(FOLDER / f"{w}.json"), arch, a.seed)["eta"] for w in WORKLOADS}
            mean = math.exp(sum(map(math.log, eta.values())) / len(eta))
            multipliers = arch.cores * arch.lanes
            row = {"arch": arch.to_dict(), "multipliers": multipliers, "eta": eta, "mean_eta": mean, "rate": mean * multipliers}
            done[arch.name] = row
            keep()
        if a.area and "area" not in done[arch.name]:
            print(f"{arch.name}: synthesis ...", flush=True)
            done[arch.name]["area"] = _area(arch, parts)
            keep()
    rows = keep()
    _print(rows)
    if a.plot:
        _plot(rows, a.plot)


if __name__ == "__main__":
    main()
