"""`sordino train`: an example network, or a network of one's own on data of one's own."""

import json as json_module
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from .common import INPUT, OUTPUT, Names, arch_option, check_folder, console, json_option, progress_bar, save_json, seed_option
from .names import METHODS, SMOOTH, TASKS

if TYPE_CHECKING:
    from ..experiments.tasks import Kind

OWN = ("data", "weights", "example", "replace", "prune_share", "qat", "batch_size", "lr")
"""Parameters that only a network of one's own has."""


@click.command(short_help="Train an example, or your own network on your own data.")
@click.argument("model", metavar="[TASK|FILE.py:NAME]", type=Names(TASKS), default="digits")
@click.option(
    "--method",
    "-m",
    type=Names(METHODS),
    multiple=True,
    default=["star"],
    show_default=True,
    help=f"Sparsity method: {', '.join(METHODS)}; or, once for each pattern of module paths, PATTERN=METHOD (none: stays as it is).",
)
@click.option("--output", "-o", type=OUTPUT, help="Checkpoint to write. [default: TASK-METHOD.safetensors]")
@click.option("--from", "start", type=INPUT, help="TASK: checkpoint of a plain network to fine-tune, instead of training one.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each phase, instead of the recipe's.")
@click.option("--strength", type=float, help="Weight of the penalty, for each cycle an activation costs.")
@click.option("--quantile", type=float, help="STAR: where the threshold starts among positive values.")
@click.option(
    "--data", type=INPUT, metavar="FOLDER|FILE.npz", help="Own network: class folders, CIFAR-100's binary folder, or arrays."
)
@click.option("--example", "-e", metavar="SHAPE", help="Own network: shape of an input, such as 3,32,32 (channels, height, width).")
@click.option("--weights", "-w", type=INPUT, help="Own network: weights of the plain network; it is not trained then.")
@click.option(
    "--replace",
    type=Names((*SMOOTH, "all")),
    multiple=True,
    help=f"Own network: activations to replace that are rarely zero: {', '.join(SMOOTH)}, all, or a pattern of module paths; each with =blend "
    "if they are to fade during training. [default: ReLUs and clamps alone are replaced]",
)
@click.option("--prune", "prune_share", type=click.FloatRange(0, 1), help="Own network: share of the weight rows to prune.")
@click.option(
    "--qat", type=click.IntRange(min=1), metavar="EPOCHS", help="Own network: quantisation-aware training; writes a .sdn too."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Own network: images of a step. [default: 32]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Own network: learning rate at the start. [default: 0.001]")
@click.option("--fresh", is_flag=True, help="Start again where an interrupted training could be continued.")
@click.option(
    "--metrics",
    type=OUTPUT,
    metavar="FOLDER",
    help="Write each epoch's figures here: CSV, and TensorBoard's events if installed.",
)
@arch_option
@seed_option
@json_option
def train(
    model: str,
    method: tuple[str, ...],
    output: Path | None,
    fresh: bool,
    arch: ArchConfig,
    json: str | None,
    **options: Any,
) -> None:
    """Train a network: plain first, then fine-tuned with a sparsity method. Writes a checkpoint.

    TASK is an example with data of its own. FILE.py:NAME is a class or function without arguments that makes a classifier,
    trained on --data: a folder with train/CLASS/*.png and, if there are any, val/ and test/; the binary version of CIFAR-100; or a
    .npz file with train_x, train_y, val_x, val_y, test_x, test_y. Where there is nothing for validation, a tenth of the
    training images is held out.

    After Ctrl-C the same command continues after the last whole epoch, and comes to the same result as without the interruption.
    """
    kind = _kind(method)
    own = ":" in model
    stem = model.rpartition(":")[2]
    output = output or Path(f"{stem}-{kind if isinstance(kind, str) else 'mixed'}.safetensors")
    check_folder(output, json)
    settings = {"model": model, "method": kind, "arch": arch.name, **{k: _plain(v) for k, v in options.items()}}
    with _state(output, settings, fresh) as state:
        figures = (_own if own else _task)(model, kind, output, state, arch, **options)
    save_json(json, "train", {**figures, "checkpoint": str(output)})


def _task(task: str, kind: "Kind", output: Path, state: Path, arch: ArchConfig, **options: Any) -> dict[str, Any]:
    from ..experiments.tasks import TASKS, load_checkpoint, save_checkpoint, train_task

    if task not in TASKS:
        raise InputError(
            f"unknown task {task!r}: the example tasks are {', '.join(TASKS)}. A network of your own is FILE.py:NAME, with --data."
        )
    if given := [name for name in OWN if options[name] not in (None, ())]:
        raise InputError(f"--{given[0].removesuffix('_share').replace('_', '-')} is for a network of your own, FILE.py:NAME.")
    plain = None
    if options["start"] is not None:
        trained = load_checkpoint(options["start"])
        if (trained.task, trained.method) != (task, "relu"):
            raise InputError(
                f"{options['start']}: holds {trained.task!r} trained with {trained.method!r}; --from takes {task!r} trained with 'relu'."
            )
        plain = trained.model
    with progress_bar() as bar:
        result = train_task(
            TASKS[task],
            kind,
            options["seed"],
            plain=plain,
            epochs=options["epochs"],
            options=_method_options(options),
            metrics=options["metrics"],
            state=state,
            progress=bar,
        )
    save_checkpoint(result, output)
    _print(kind, result, output)
    return result.figures()


def _own(spec: str, kind: "Kind", output: Path, state: Path, arch: ArchConfig, **options: Any) -> dict[str, Any]:
    import torch

    from ..experiments.own import OwnRecipe, read_data, save_own_weights, train_own
    from ..runtime.compile import compile
    from .models import factory, load_weights

    if options["start"] is not None:
        raise InputError("--from is for an example task; give the weights of your own plain network with --weights.")
    if options["data"] is None or options["example"] is None:
        raise InputError(
            f"train {spec}: give images with labels and the shape of one, such as --data FOLDER --example 3,32,32 (channels, height, width)."
        )
    shape = _shape(options["example"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options["seed"])
        network = factory(spec)
    if options["weights"] is not None:
        network = load_weights(network, options["weights"])
    data, classes = read_data(options["data"], shape, options["seed"])
    _check_outputs(network, data.train[0][:1], classes, spec)
    epochs = {} if options["epochs"] is None else dict.fromkeys(("epochs", "sparse_epochs", "prune_epochs"), options["epochs"])
    if options["weights"] is not None:
        epochs["epochs"] = 0
    given = {k: options[k] for k in ("batch_size", "lr", "seed") if options[k] is not None}
    recipe = OwnRecipe(
        kind,
        _method_options(options),
        _replace(options["replace"]),
        prune=options["prune_share"] or 0.0,
        qat_epochs=options["qat"] or 0,
        **given,
        **epochs,
    )
    with progress_bar() as bar:
        result = train_own(network, data, recipe, arch, state=state, metrics=options["metrics"], progress=bar)
    save_own_weights(result, output)
    _print(kind, result, output)
    if result.quantised is not None:
        program = compile(result.quantised, data.train[0][:64], name=spec.rpartition(":")[2])
        program.save(output.with_suffix(".sdn"))
        console().print(f"Program: {output.with_suffix('.sdn')} ({program.arch.name})", markup=False)
    else:
        text = f"Next: sordino compile {spec} --weights {output} --calibration IMAGES.npy"
        console().print(text, markup=False, soft_wrap=True)
    return {"model": spec, "classes": classes, **result.figures()}


def _check_outputs(network: Any, x: Any, classes: int, spec: str) -> None:
    """Raises `InputError` where the network does not take the images, or has too few outputs for the labels."""
    import torch

    try:
        with torch.no_grad():
            y = network.eval()(x)
    except Exception as error:  # whatever the user's network raises
        raise InputError(f"{spec} does not take images of shape {tuple(x.shape[1:])}: {' '.join(str(error).split())}") from None
    if not torch.is_tensor(y) or y.ndim != 2 or y.shape[1] < classes:
        found = tuple(y.shape) if torch.is_tensor(y) else type(y).__name__
        raise InputError(f"{spec} must give logits [batch, classes] for the {classes} classes of the data; it gives {found}.")


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(n) for n in text.split(",")[-3:])
    except ValueError:
        raise InputError(f"--example {text}: not a shape such as 3,32,32 (channels, height, width).") from None
    if min(channels, height, width) < 1:
        raise InputError(f"--example {text}: sizes must be positive.")
    return channels, height, width


def _replace(texts: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, how = text.partition("=")
        if equals and how not in ("now", "blend"):
            raise InputError(f"--replace {text}: an activation is replaced =now, the default, or =blend, not ={how}.")
        found[name] = how or "now"
    return found


def _method_options(options: Mapping[str, Any]) -> dict[str, float]:
    return {name: options[name] for name in ("strength", "quantile") if options[name] is not None}


def _print(kind: "Kind", result: Any, output: Path) -> None:
    from ..table import Table

    table = Table("method", "validation accuracy", "test accuracy", "density of activations")
    label = kind if isinstance(kind, str) else ", ".join(f"{pattern}={name or 'none'}" for pattern, name in kind.items())
    table.add_row(label, f"{result.validation_accuracy:.2%}", f"{result.test_accuracy:.2%}", f"{result.density:.1%}")
    console().print(table)
    console().print(f"Checkpoint: {output}", markup=False)


@contextmanager
def _state(output: Path, settings: dict[str, Any], fresh: bool) -> Iterator[Path]:
    """The folder of the state of a training, which is removed at the end, and stays after an interruption."""
    folder = output.with_name(f"{output.name}.state")
    file = folder / "settings.json"
    if fresh and folder.is_dir() and file.is_file():
        shutil.rmtree(folder)
    if file.is_file():
        try:
            found = json_module.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            raise InputError(
                f"{folder} holds an interrupted training with other settings. Give the same command as then to continue it, or "
                "--fresh to start again."
            )
        click.echo(f"Continuing the interrupted training in {folder}; --fresh starts again.", err=True)
    else:
        try:
            folder.mkdir(exist_ok=True)
            file.write_text(json_module.dumps(settings), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}. Choose a folder that exists and is writable.") from None
    try:
        yield folder
    except KeyboardInterrupt:
        click.echo(f"The same command continues the training; its state is in {folder}.", err=True)
        raise
    except BaseException:
        if not any(folder.glob("*.pt")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _kind(methods: tuple[str, ...]) -> "Kind":
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
