"""`sordino compile`: a checkpoint, or a network of one's own, to a `.sdn` file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from .common import INPUT, OUTPUT, arch_option, check_folder, console, json_option, progress_bar, save_json

if TYPE_CHECKING:
    from sordino_hw.spec.program import Program


@click.command(short_help="Quantise a network and compile it to a .sdn file.")
@click.argument("model", metavar="MODEL")
@click.option("--output", "-o", type=OUTPUT, help="File to write. [default: MODEL.sdn, here]")
@click.option("--weights", "-w", type=INPUT, help="Weights of FILE.py:NAME: .safetensors or .pt state dict.")
@click.option("--random-weights", is_flag=True, help="Compile FILE.py:NAME as it is made, untrained; the file is marked.")
@click.option("--calibration", "-c", type=INPUT, help="Typical inputs: .npy, or .npz for several.")
@click.option(
    "--method",
    type=click.Choice(["mse", "percentile", "minmax"]),
    default="mse",
    show_default=True,
    help="Calibration: how far a tensor's scale reaches.",
)
@click.option("--dense", is_flag=True, help="Dense mode, the baseline that processes zeros too.")
@click.option(
    "--density", type=float, help="Density of the activations to choose mappings for. [default: measured on the calibration]"
)
@arch_option
@json_option
def compile(
    model: str,
    output: Path | None,
    weights: Path | None,
    random_weights: bool,
    calibration: Path | None,
    method: str,
    dense: bool,
    density: float | None,
    arch: ArchConfig,
    json: str | None,
) -> None:
    """Quantise a network and compile it to a .sdn file.

    MODEL is an .onnx file; a checkpoint of `sordino train`; or FILE.py:NAME, a class or function without arguments, with --weights.
    """
    from ..quantization import quantize
    from ..runtime.compile import compile as compile_model

    network, name, stem, samples = _sources(model, weights, random_weights, calibration)
    output = output or Path(f"{stem}.sdn")
    check_folder(json)
    with progress_bar() as bar:
        task = bar.add_task("quantising", total=None, note="")
        quantised = quantize(network, list(zip(*(s.split(64) for s in samples), strict=True)), arch, method=method)
        bar.update(task, description="compiling")
        program = compile_model(quantised, [s[:64] for s in samples], dense=dense, name=name, density=density)
    if random_weights:
        program.meta["random_weights"] = True
    program.save(output)
    zeros = {row["name"]: row["zero_weights"] for row in quantised.report()}
    figures = _figures(program, zeros, len(samples[0]))
    _print(program, figures, output)
    save_json(json, "compile", {"file": str(output), "name": name, "dense": dense, "random_weights": random_weights, **figures})


def _sources(model: str, weights: Path | None, random_weights: bool, calibration: Path | None) -> tuple[Any, str, str, Any]:
    """The network, its name for people, the stem of its file, and the calibration inputs. Raises `InputError`."""
    from ..experiments.tasks import TASKS, load_checkpoint
    from .models import factory, load_weights, onnx_model, tensors

    network: Any
    if model.endswith((".safetensors", ".onnx")) and (weights is not None or random_weights):
        raise InputError(f"{model} has its own weights; leave {'--weights' if weights else '--random-weights'} out.")
    if model.endswith(".onnx"):
        network, _ = onnx_model(model)
        name = stem = Path(model).stem
        samples = _calibration(calibration)
    elif model.endswith(".safetensors"):
        trained = load_checkpoint(model)
        name = f"{trained.task} ({trained.method if isinstance(trained.method, str) else 'mixed'})"
        samples = (TASKS[trained.task].data().train[0],) if calibration is None else tensors(calibration)
        network, stem = trained.model, Path(model).stem
    else:
        network = factory(model)
        name = stem = model.rpartition(":")[2]
        if weights is not None and random_weights:
            raise InputError("compile: give either --weights or --random-weights, not both.")
        if weights is not None:
            network = load_weights(network, weights)
        elif not random_weights:
            raise InputError(
                f"compile: {model} has no trained weights. Give them with --weights FILE (safetensors, or a .pt state dict); or, to "
                "compile it untrained for a trial of size and speed, --random-weights."
            )
        samples = _calibration(calibration)
    if not samples or min(len(s) for s in samples) < 1:
        raise InputError(f"{calibration}: the calibration set is empty. Give typical inputs; some hundred are enough.")
    return network, name, stem, samples


def _calibration(path: Path | None) -> Any:
    from .models import tensors

    if path is None:
        raise InputError("compile: give typical inputs with --calibration x.npy; some hundred are enough. They set the scales.")
    return tensors(path)


def _figures(program: "Program", zeros: Mapping[str, float], images: int) -> dict[str, Any]:
    from ..runtime.memory import live_words, memory_use
    from ..runtime.speed import transfers

    moved = transfers(program)
    return {
        "arch": program.arch.to_dict(),
        "segments": len(program.segments),
        "operations": len(program.ops),
        "memory": {k: {"used": used, "depth": depth} for k, (used, depth) in memory_use(program).items()},
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
        "calibration_images": images,
        "activation_memory": [{"layer": name, "words": words} for name, words in live_words(program)],
        "transfers": {"once_cycles": moved.once, "load_cycles": moved.load, "link_cycles": moved.link},
    }


def _print(program: "Program", figures: Mapping[str, Any], output: Path) -> None:
    from ..table import Table

    table = Table()
    table.add_column("layer", overflow="fold", min_width=8)
    for column in ("kind", "MACs", "zero weights", "cores"):
        table.add_column(column, justify="left" if column in ("kind", "cores") else "right")
    for x in figures["layers"]:
        table.add_row(x["name"], x["kind"], f"{x['macs']:,}", f"{x['zero_weights']:.1%}", x["mapping"])
    out = console()
    out.print(table)
    out.print("Memory: " + ", ".join(f"{k} {m['used'] / m['depth']:.0%}" for k, m in figures["memory"].items()))
    if program.meta.get("random_weights"):
        out.print("The weights are random: its outputs mean nothing.")
    size, segments = output.stat().st_size, len(program.segments)
    out.print(f"Program: {output} ({size:,} bytes, {segments} segments, {program.arch.name})", markup=False)
