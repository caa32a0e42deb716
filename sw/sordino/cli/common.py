"""What the commands share: errors as one paragraph, options, consoles."""

import functools
import importlib.util
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import nn

from sordino_hw.spec.arch import PRESETS
from sordino_hw.spec.errors import InputError, SordinoError

from .. import train
from ..report import tables
from ..report.jsonfile import write_json

__all__ = [
    "ArchOption",
    "BackendOption",
    "JsonOption",
    "SeedOption",
    "arrays",
    "console",
    "factory",
    "friendly",
    "progress_bar",
    "save_json",
]

console = Console(width=None if sys.stdout.isatty() else tables.WIDE)
errors = Console(stderr=True)

Command = TypeVar("Command", bound=Callable[..., Any])

JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to FILE (keys: docs/reference/cli.md).")
]
ArchOption = Annotated[str, typer.Option("--arch", help=f"Architecture: {', '.join(PRESETS)}.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
BackendOption = Annotated[
    str, typer.Option("--backend", help="golden (values only), timing (values and cycles), verilator (the RTL itself).")
]


def friendly(command: Command) -> Command:
    """Decorator: a `SordinoError` becomes one paragraph on standard error and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except SordinoError as error:
            print(f"sordino: {error}", file=sys.stderr)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def save_json(path: Path | None, command: str, figures: dict[str, Any]) -> None:
    """Writes the figures if a file is wanted, and says so."""
    if path is not None:
        write_json(path, command, figures)
        console.print(f"Figures: {path}")


def progress_bar() -> Progress:
    """The bar that the commands show while they work; on standard error, so that output can be piped."""
    return train.progress_bar(console=errors, transient=True, disable=not errors.is_terminal)


MAX_INFLATED = 1 << 31
"""Bytes that the arrays of one .npz file may have once they are inflated."""


def factory(spec: str) -> nn.Module:
    """The module that `FILE.py:NAME` makes: NAME is a class or a function without arguments.

    Raises `InputError` if the file, the name or the module is not there, and for what the file itself raises.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not file or path.suffix != ".py":
        raise InputError(
            f"{spec}: name a model as FILE.py:NAME, where NAME is a class or function without arguments; or a checkpoint."
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, name):
            raise InputError(f"{path}: it has no {name!r}. Name a class or function that it defines at the top level.")
        model = getattr(module, name)()
    except SordinoError:
        raise
    except Exception as error:  # whatever the user's file does
        raise InputError(f"{spec}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec}: made a {type(model).__name__}, not a torch.nn.Module.")
    return model.eval()


def arrays(path: Path) -> tuple[np.ndarray, ...]:
    """The arrays of a `.npy` file (one) or a `.npz` file (in order). Raises `InputError`; nothing is unpickled."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (size := sum(entry.file_size for entry in archive.infolist())) > MAX_INFLATED:
                    raise InputError(
                        f"{path}: its arrays have {size:,} bytes uncompressed, at most {MAX_INFLATED:,} are read at once. "
                        "Split it into several files, or save its parts as .npy."
                    )
        found = np.load(path, allow_pickle=False)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # numpy raises OSError, ValueError, EOFError, zipfile.BadZipFile, ...
        raise InputError(f"{path}: not a readable .npy or .npz file ({error}). Write it with numpy.save or numpy.savez.") from None
    if isinstance(found, np.ndarray):
        return (found,)
    with found:
        try:
            return tuple(found[name] for name in found.files)
        except Exception as error:
            raise InputError(f"{path}: truncated or corrupt ({error}). Write it again.") from None


def tensors(path: Path) -> tuple[torch.Tensor, ...]:
    """As `arrays`, as float tensors."""
    found = arrays(path)
    for a in found:
        if a.dtype.kind not in "fiub":
            raise InputError(f"{path}: an array of dtype {a.dtype} does not hold real numbers.")
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in found)
