"""`sordino run`: a `.sdn` file on inputs."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from .common import (
    INPUT,
    OUTPUT,
    ArchType,
    backend_option,
    check_folder,
    clock_option,
    console,
    json_option,
    progress_bar,
    save_json,
)

if TYPE_CHECKING:
    import numpy as np


@click.command(short_help="Run a compiled network: outputs, cycles, time, utilisation.")
@click.argument("program", metavar="FILE.sdn", type=INPUT)
@click.argument("inputs", metavar="INPUT", type=INPUT)
@backend_option
@click.option("--output", "-o", type=OUTPUT, help="Write what the network returns (.npy; .npz for several).")
@click.option("--integers", is_flag=True, help="Input and output are the array's integers, not floats: no step of the host runs.")
@click.option("--arch", type=ArchType(), help="Refuse a program that is compiled for another architecture.")
@click.option("--waves", type=OUTPUT, help="Write waves (.fst or .vcd; back end verilator only).")
@click.option(
    "--trace",
    "trace_file",
    type=OUTPUT,
    help="Write a timeline of the first image: layers, cores and the host's port, for ui.perfetto.dev (not from golden).",
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0),
    default=1,
    show_default=True,
    help="Refuse a program that may take more than so many times the ordinary steps (10^9 an image) or memory (8 GiB).",
)
@clock_option
@json_option
def run(
    program: Path,
    inputs: Path,
    backend: str,
    output: Path | None,
    integers: bool,
    arch: ArchConfig | None,
    waves: Path | None,
    trace_file: Path | None,
    limit: float,
    clock: float | None,
    json: str | None,
) -> None:
    """Run a compiled network on a batch of inputs; print cycles, stalls, events, density, utilisation and time.

    INPUT holds floats [batch, ...]: a .npy file, or a .npz file with one array for each input of the network.
    """
    check_folder(json, trace_file)
    if trace_file is not None and backend == "golden":
        raise InputError("run: the golden model counts no cycles; for --trace use --backend timing or verilator.")
    from ..report.jsonfile import write_text
    from ..report.tables import stats_table
    from ..report.trace import trace
    from ..runtime.accelerator import Accelerator
    from ..runtime.edges import named
    from ..runtime.speed import Speed, clock_of, transfers
    from .models import arrays

    values = arrays(inputs)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None, note="")

        def report(done: int, total: int) -> None:
            bar.update(task, description=backend, completed=done, total=total)

        with Accelerator(program, backend, arch=arch, waves=waves, progress=report, limit=limit) as acc:
            if integers:
                result = acc.integers(*values)
                made = dict(zip(acc.program.outputs, result if isinstance(result, tuple) else (result,), strict=True))
            else:
                made = named(acc.program, acc.returned(*values))
            stats = acc.stats
    out = console()
    if output is not None:
        _write(output, {name: y for name, y in made.items() if hasattr(y, "shape")})
        out.print(f"Output: {output}", markup=False)
    out.print(stats_table(stats, f"{program.name} on {backend}, {stats.images} images, {acc.program.arch.name}", out.width))
    speed = None
    if stats.total.cycles is not None:
        speed = Speed(stats.total.cycles, transfers(acc.program), clock_of(acc.program.arch, clock))
        out.print(str(speed), markup=False)
    if trace_file is not None:
        assert speed is not None and stats.records is not None
        document = trace(acc.program, stats.records, speed.transfers, speed.clock)
        write_text(trace_file, json_module.dumps(document))
        out.print(f"Trace: {trace_file} (open it in https://ui.perfetto.dev)", markup=False)
    if acc.program.meta.get("random_weights"):
        out.print("The weights are random (compiled with --random-weights): the outputs mean nothing.")
    figures = {
        "file": str(program),
        "arch": acc.program.arch.to_dict(),
        "stats": stats.to_dict(),
        "time": speed.to_dict() if speed else None,
        "returned": [_returned(name, y) for name, y in made.items()],
    }
    save_json(json, "run", figures)


def _returned(name: str, y: Any) -> dict[str, Any]:
    if hasattr(y, "shape"):
        return {"name": name, "dtype": str(y.dtype), "shape": list(y.shape), "value": None}
    return {"name": name, "dtype": "literal", "shape": [], "value": y}


def _write(path: Path, outputs: "dict[str, np.ndarray]") -> None:
    import numpy as np

    from sordino_hw.spec.files import replacing

    with replacing(path, InputError) as temporary, temporary.open("wb") as f:
        if path.suffix == ".npz":
            np.savez(f, allow_pickle=False, **outputs)
        elif len(outputs) == 1:
            np.save(f, next(iter(outputs.values())))
        else:
            raise InputError(f"{path}: the network has {len(outputs)} outputs; name a .npz file.")
