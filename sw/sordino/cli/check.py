"""`sordino check`: what is supported, what fits, what it will cost."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from sordino_hw.spec.errors import CompileError, InputError

from ..experiments.tasks import TASKS, load_checkpoint
from ..runtime.check import check as check_model
from .common import ArchOption, JsonOption, console, factory, friendly, save_json, tensors


@friendly
def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="FILE.py:NAME: a class or function; or a checkpoint.")],
    example: Annotated[
        str | None, typer.Option("--example", "-e", help="Input: a shape such as 1,3,32,32 (';' between several), or .npy/.npz.")
    ] = None,
    arch: ArchOption = "ulx3s-85f",
    json: JsonOption = None,
) -> None:
    """Report, before any training: supported operators, memory, predicted cycles. Exit code 2 if it cannot be compiled."""
    if model.endswith(".safetensors"):
        trained = load_checkpoint(model)
        network = trained.model
        inputs = (TASKS[trained.task].data().train[0][:1],) if example is None else _example(example)
    else:
        network = factory(model)
        if example is None:
            raise InputError("check: give the shape of an input, such as --example 1,3,32,32 (batch first).")
        inputs = _example(example)
    report = check_model(network, inputs, arch)
    console.print(report)
    save_json(json, "check", report.to_dict())
    if not report.ok:
        raise CompileError(report.problem)


def _example(text: str) -> tuple[torch.Tensor, ...]:
    if text.endswith((".npy", ".npz")):
        return tensors(Path(text))
    try:
        shapes = [tuple(int(n) for n in part.split(",")) for part in text.split(";")]
    except ValueError:
        raise InputError(f"--example {text}: not a shape such as 1,3,32,32, nor a .npy or .npz file.") from None
    if any(min(s) < 1 for s in shapes):
        raise InputError(f"--example {text}: sizes must be positive.")
    return tuple(torch.zeros(s) for s in shapes)
