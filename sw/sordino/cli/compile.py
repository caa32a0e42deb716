"""`sordino compile`: a checkpoint, or a network of one's own, to a `.sdn` file."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import InputError

from ..experiments.tasks import TASKS, load_checkpoint
from ..quantization import quantize
from ..runtime.check import memory_use
from ..runtime.compile import compile as compile_model
from .common import ArchOption, JsonOption, console, factory, friendly, save_json, tensors


@friendly
def compile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint of `sordino train`, or FILE.py:NAME: a class or function.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default MODEL.sdn here.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", "-w", help="Weights of FILE.py:NAME: .safetensors or .pt state dict.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", "-c", help="Typical inputs: .npy, or .npz for several.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="Calibration: mse, percentile or minmax.")] = "mse",
    dense: Annotated[bool, typer.Option("--dense", help="The baseline that takes no advantage of zeros.")] = False,
    density: Annotated[
        float | None,
        typer.Option(
            "--density", help="Non-zero part of activations to choose mappings for. [default: measured on the calibration]"
        ),
    ] = None,
    arch: ArchOption = "ulx3s-85f",
    json: JsonOption = None,
) -> None:
    """Quantise a network and compile it to a .sdn file."""
    target = preset(arch)
    if model.endswith(".safetensors"):
        if weights is not None:
            raise InputError(f"{model} has its own weights; leave --weights out.")
        trained = load_checkpoint(model)
        network: nn.Module = trained.model
        name, stem = f"{trained.task} ({trained.method if isinstance(trained.method, str) else 'mixed'})", Path(model).stem
        samples = (TASKS[trained.task].data().train[0],) if calibration is None else tensors(calibration)
    else:
        network = factory(model)
        name = stem = model.rpartition(":")[2]
        if weights is not None:
            _load(network, weights)
        if calibration is None:
            raise InputError("compile: give typical inputs with --calibration x.npy; some hundred are enough. They set the scales.")
        samples = tensors(calibration)
    if not samples or min(len(s) for s in samples) < 1:
        raise InputError(f"{calibration}: the calibration set is empty. Give typical inputs; some hundred are enough.")
    output = output or Path(f"{stem}.sdn")
    quantised = quantize(network, list(zip(*(s.split(64) for s in samples), strict=True)), target, method=method)
    program = compile_model(quantised, [s[:64] for s in samples], dense=dense, name=name, density=density)
    program.save(output)
    table = Table("layer", "kind", "MACs", "zero weights", "cores")
    zeros = {row["name"]: row["zero_weights"] for row in quantised.report()}
    for layer in program.layers:
        table.add_row(layer.name, layer.kind, f"{layer.macs:,}", f"{zeros.get(layer.output, 0.0):.1%}", layer.mapping)
    console.print(table)
    memory = memory_use(program)
    console.print("Memory: " + ", ".join(f"{k} {used / depth:.0%}" for k, (used, depth) in memory.items()))
    console.print(f"Program: {output} ({output.stat().st_size:,} bytes, {len(program.segments)} segments, {target.name})")
    save_json(
        json,
        "compile",
        {
            "file": str(output),
            "name": name,
            "arch": target.to_dict(),
            "dense": dense,
            "segments": len(program.segments),
            "operations": len(program.ops),
            "memory": {k: {"used": used, "depth": depth} for k, (used, depth) in memory.items()},
            "layers": [
                {
                    "name": x.name,
                    "kind": x.kind,
                    "source": x.source,
                    "macs": x.macs,
                    "zero_weights": zeros.get(x.output, 0.0),
                    "mapping": x.mapping,
                }
                for x in program.layers
            ],
            "calibration_images": len(samples[0]),
        },
    )


def _load(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: not a readable file of weights ({error}).") from None
    except Exception as error:  # pickle.UnpicklingError and kin: what weights_only refuses
        raise InputError(
            f"{path}: refused, it holds more than tensors ({type(error).__name__}). Save model.state_dict() as safetensors."
        ) from None
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the weights do not fit the model. {' '.join(str(error).split())}") from None
