"""`sordino train`: an example network, plain or sparse."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sordino_hw.spec.errors import InputError

from ..experiments.tasks import TASKS, Kind, load_checkpoint, save_checkpoint, train_task
from ..nn import METHODS
from .common import JsonOption, SeedOption, console, friendly, progress_bar, save_json


@friendly
def train(
    task: Annotated[str, typer.Argument(help=f"Example task: {', '.join(TASKS)}.")] = "digits",
    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help=f"Sparsity method: {', '.join(METHODS)}; or, once for each pattern of module paths, PATTERN=METHOD (none: stays as it is).",
        ),
    ] = ["star"],  # noqa: B006 (typer reads it)
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Checkpoint to write; default TASK-METHOD.safetensors.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Checkpoint of a plain network to fine-tune, instead of training one.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of each phase, instead of the recipe's.")] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", help="Weight of the penalty, for each cycle an activation costs.")
    ] = None,
    quantile: Annotated[
        float | None, typer.Option("--quantile", help="STAR: where the threshold starts among positive values.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", metavar="FOLDER", help="Write each epoch's figures here: CSV, and TensorBoard's events if installed."
        ),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Train an example network: plain first, then fine-tuned with a sparsity method. Writes a checkpoint."""
    if task not in TASKS:
        raise InputError(
            f"unknown task {task!r}: the example tasks are {', '.join(TASKS)}. For a network of your own see docs/tutorials/own-network.md."
        )
    kind = _kind(method)
    label = kind if isinstance(kind, str) else ", ".join(method)
    output = output or Path(f"{task}-{kind if isinstance(kind, str) else 'mixed'}.safetensors")
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: the folder {output.parent} does not exist.")
    plain = None
    if start is not None:
        trained = load_checkpoint(start)
        if (trained.task, trained.method) != (task, "relu"):
            raise InputError(
                f"{start}: holds {trained.task!r} trained with {trained.method!r}; --from takes {task!r} trained with 'relu'."
            )
        plain = trained.model
    options = {k: v for k, v in {"strength": strength, "quantile": quantile}.items() if v is not None}
    with progress_bar() as bar:
        result = train_task(TASKS[task], kind, seed, plain=plain, epochs=epochs, options=options, metrics=metrics, progress=bar)
    save_checkpoint(result, output)
    table = Table("method", "validation accuracy", "test accuracy", "density", "non-zero activations an image")
    table.add_row(
        label,
        f"{result.validation_accuracy:.2%}",
        f"{result.test_accuracy:.2%}",
        f"{result.density:.1%}",
        f"{result.nonzero:,.0f}",
    )
    console.print(table)
    console.print(f"Checkpoint: {output}")
    save_json(json, "train", {**result.figures(), "checkpoint": str(output)})


def _kind(methods: list[str]) -> Kind:
    """A name, or names by pattern."""
    if len(methods) == 1 and "=" not in methods[0]:
        return methods[0]
    kinds: dict[str, str | None] = {}
    for text in methods:
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern:
            raise InputError(
                f"--method {text}: several methods are given as PATTERN=METHOD, such as --method 'relu1=l1' --method '*=star'."
            )
        if pattern in kinds:
            raise InputError(f"--method {text}: {pattern!r} has a method already.")
        kinds[pattern] = None if name == "none" else name
    return kinds
