"""What commands read: models from Python files, arrays, examples and weights."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sordino_hw.spec.errors import InputError, SordinoError

__all__ = ["arrays", "example_inputs", "factory", "load_weights", "onnx_model", "tensors"]

MAX_INFLATED = 1 << 31
"""Bytes that the arrays of one .npz file may have once they are inflated."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def factory(spec: str) -> nn.Module:
    """The module that `FILE.py:NAME` makes: NAME is a class or a function without arguments.

    Raises `InputError` if the file, the name or the module is not there, and for what the file itself raises.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not file or path.suffix != ".py":
        raise InputError(
            f"{spec}: name a model as FILE.py:NAME, where NAME is a class or function without arguments; or an .onnx file, or a checkpoint."
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    module_name = f"sordino_model_{path.stem}"  # a file called json.py must not take the place of that module
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
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


def onnx_model(path: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network of an ONNX file, and zeros of its inputs' shapes (nothing where the file leaves one free). Raises `InputError`."""
    from ..onnx import load_onnx

    model = load_onnx(path)
    return model, model.example


def arrays(path: Path) -> tuple[np.ndarray, ...]:
    """The arrays of a `.npy` file (one) or a `.npz` file (in order). Raises `InputError`; nothing is unpickled."""
    if path.suffix.lower() in IMAGES and path.exists():
        raise InputError(
            f"{path}: an image file; arrays are read from .npy or .npz, float [batch, channels, height, width]. To convert it: "
            f"numpy.save('x.npy', numpy.asarray(PIL.Image.open('{path}'), 'float32').transpose(2, 0, 1)[None] / 255), and "
            "normalise the values as in training."
        )
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
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise InputError(f"{path}: not a readable .npy or .npz file ({reason}). Write it with numpy.save or numpy.savez.") from None
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


def example_inputs(texts: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """Example inputs from one text for each: a shape such as `1,3,32,32`, whose values are zeros, or a `.npy` or `.npz` file.

    A text may hold several shapes with `;` between them. Raises `InputError`.
    """
    found: list[torch.Tensor] = []
    for text in texts:
        if text.endswith((".npy", ".npz")):
            found += tensors(Path(text))
            continue
        try:
            shapes = [tuple(int(n) for n in part.split(",")) for part in text.split(";")]
        except ValueError:
            raise InputError(f"--example {text}: not a shape such as 1,3,32,32, nor a .npy or .npz file.") from None
        if any(min(s) < 1 for s in shapes):
            raise InputError(f"--example {text}: sizes must be positive.")
        found += [torch.zeros(s) for s in shapes]
    return tuple(found)


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """The model with the weights of a safetensors file or a `.pt` state dict, of which nothing but tensors is read.

    Where `sordino train` wrote the file, the layers of its sparsity method are put in place first. Raises `InputError`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..experiments.own import load_own_weights
    from ..zoo.checkpoint import fitting

    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix == ".safetensors" and (trained := load_own_weights(model, path)) is not None:
        return trained
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: not a readable file of weights ({error}).") from None
    except Exception as error:  # pickle.UnpicklingError and kin: what weights_only refuses
        raise InputError(
            f"{path}: refused, it holds more than tensors ({type(error).__name__}). Save model.state_dict() as safetensors."
        ) from None
    state = fitting(state, model.state_dict(), path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the weights do not fit the model. {' '.join(str(error).split())}") from None
    return model
