"""`sordino run`: a `.sdn` file on inputs."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

from ..report.tables import stats_table
from ..runtime.accelerator import Accelerator
from .common import BackendOption, JsonOption, arrays, console, friendly, progress_bar, save_json


@friendly
def run(
    program: Annotated[Path, typer.Argument(metavar="FILE.sdn", help="Compiled network.")],
    inputs: Annotated[Path, typer.Argument(metavar="INPUT", help="Floats [batch, ...]: .npy, or .npz for several inputs.")],
    backend: BackendOption = "golden",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the network's output (.npy; .npz for several).")
    ] = None,
    integers: Annotated[bool, typer.Option("--integers", help="Input and output are the array's integers, not floats.")] = False,
    arch: Annotated[str | None, typer.Option("--arch", help="Refuse a program compiled for another architecture.")] = None,
    waves: Annotated[Path | None, typer.Option("--waves", help="Write waves (.fst or .vcd; back end verilator only).")] = None,
    json: JsonOption = None,
) -> None:
    """Run a compiled network on a batch of inputs; print cycles, stalls, events, density and utilisation per layer."""
    values = arrays(inputs)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None, note="")
        with Accelerator(
            program,
            backend,
            arch=arch,
            waves=waves,
            progress=lambda done, total: bar.update(task, description=backend, completed=done, total=total),
        ) as acc:
            result = acc.integers(*values) if integers else acc(*values)
            stats = acc.stats
    outputs = result if isinstance(result, tuple) else (result,)
    if output is not None:
        _write(output, dict(zip(acc.program.outputs, outputs, strict=True)))
        console.print(f"Output: {output}")
    console.print(stats_table(stats, f"{program.name} on {backend}, {stats.images} images, {acc.program.arch.name}", console.width))
    figures = {"file": str(program), "arch": acc.program.arch.to_dict(), "stats": stats.to_dict()}
    save_json(json, "run", figures)


def _write(path: Path, outputs: dict[str, np.ndarray]) -> None:
    with replacing(path, InputError) as temporary, temporary.open("wb") as f:
        if path.suffix == ".npz":
            np.savez(f, allow_pickle=False, **outputs)
        elif len(outputs) == 1:
            np.save(f, next(iter(outputs.values())))
        else:
            raise InputError(f"{path}: the network has {len(outputs)} outputs; name a .npz file.")
