"""`sordino check`: what is supported, what fits, what it will cost."""

import click

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError, InputError

from .common import arch_option, check_folder, clock_option, console, json_option, progress_bar, save_json


@click.command(short_help="Say what of a network is supported, whether it fits, and its predicted time.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--example",
    "-e",
    multiple=True,
    metavar="SHAPE|FILE",
    help="Input: a shape such as 1,3,32,32, or a .npy or .npz file. Of a network with several inputs, once for each.",
)
@arch_option
@clock_option
@json_option
def check(model: str, example: tuple[str, ...], arch: ArchConfig, clock: float | None, json: str | None) -> None:
    """Report, before any training: supported operators, memory, predicted cycles and time. Exit code 2 if it cannot be compiled.

    MODEL is FILE.py:NAME, a class or function without arguments; an .onnx file; or a checkpoint of `sordino train`.
    """
    check_folder(json)
    from ..experiments.tasks import TASKS, load_checkpoint
    from ..runtime.check import check as check_model
    from .models import example_inputs, factory, onnx_model

    if model.endswith(".safetensors"):
        trained = load_checkpoint(model)
        network = trained.model
        inputs = example_inputs(example) or (TASKS[trained.task].data().train[0][:1],)
    elif model.endswith(".onnx"):
        network, given = onnx_model(model)
        inputs = example_inputs(example) or given
        if not inputs:
            raise InputError(
                f"check: {model} leaves sizes of its input free. Give a shape, such as --example 1,3,32,32 (batch first)."
            )
    else:
        network = factory(model)
        if not example:
            raise InputError("check: give the shape of an input, such as --example 1,3,32,32 (batch first).")
        inputs = example_inputs(example)
    with progress_bar() as bar:
        bar.add_task("checking", total=None, note="")
        report = check_model(network, inputs, arch, clock=clock)
    console().print(report)
    save_json(json, "check", report.to_dict())
    if not report.ok:
        raise CompileError(report.problem)
