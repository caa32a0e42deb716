"""What the folder loaders share: layouts, and reading lists, images and XML that may be missing or broken."""

import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.text import printable

__all__ = ["Folder", "Layout", "Transform", "as_tensor", "boxes_within", "read_image", "read_index_image", "read_lines", "read_xml"]

Transform = Callable[[Tensor, Any], tuple[Tensor, Any]]

MAX_TEXT = 1 << 26
MAX_XML = 1 << 20
MAX_ASPECT = 64
FORMATS = ("JPEG", "PNG")
"""All that the data sets use: the rest of Pillow's decoders stay unused."""


@dataclass(frozen=True)
class Layout:
    """The name of a data set and its tree, for messages."""

    name: str
    tree: str

    def error(self, message: str) -> InputError:
        return InputError(f"{self.name}: {message}. Expected layout: {self.tree}.")

    def directory(self, *parts: str | os.PathLike) -> Path:
        """The folder. Raises `InputError` if there is none."""
        path = Path(*parts)
        if not path.is_dir():
            raise self.error(f"folder {path} is missing")
        return path

    def file(self, *parts: str | os.PathLike) -> Path:
        """The file. Raises `InputError` if there is none."""
        path = Path(*parts)
        if not path.is_file():
            raise self.error(f"file {path} is missing")
        return path

    def inside(self, root: Path, name: str, listed_in: Path) -> Path:
        """`root/name` for a name that a list gives. Raises `InputError` if it would leave `root` or is not there."""
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            raise self.error(f"{listed_in} names {name!r}, which is outside {root}")
        path = root / pure
        if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long for a missing one
            raise self.error(f"file {printable(path)}, named in {listed_in}, is missing")
        return path

    def choice(self, what: str, value: str, allowed: tuple[str, ...]) -> str:
        if value not in allowed:
            raise InputError(f"{self.name}: {what} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
        return value


class Folder(Dataset, ABC):
    """Base of the loaders: a length, and pairs that went through `transform`."""

    def __init__(self, transform: Transform | None):
        self.transform = transform

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _load(self, index: int) -> tuple[Tensor, Any]:
        """The image and the target of item 0 <= index < len(self), before `transform`."""

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__} has {len(self)} items, no number {index}")
        image, target = self._load(index % len(self))
        return (image, target) if self.transform is None else self.transform(image, target)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text without those that are blank. Raises `InputError` for other bytes or over 64 MiB."""
    if path.stat().st_size > MAX_TEXT:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, a list may have {MAX_TEXT:,}: it is not one")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text: {error.reason} at byte {error.start}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _open(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if max(width, height) > MAX_ASPECT * min(width, height):  # scaled to one height it would fill the memory
                    raise ValueError(f"it has {width}x{height} pixels, and no side may be over {MAX_ASPECT} times the other")
                return convert(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise InputError(f"{path} cannot be read as a JPEG or PNG image: {error}. Copy it anew from its source.") from error


def read_image(path: Path) -> Image.Image:
    """A JPEG or PNG, as RGB. Raises `InputError` if it is neither, broken, or too large to be a photograph."""
    return _open(path, lambda image: image.convert("RGB"))


def read_index_image(path: Path) -> Tensor:
    """An image whose pixels are class indices (grey or palette, 8 bits): int64 [h, w]. Raises `InputError` otherwise."""

    image = _open(path, Image.Image.copy)
    if image.mode not in ("L", "P"):
        raise InputError(f"{path} holds {image.mode} pixels, not class indices of 8 bits")
    return torch.from_numpy(np.array(image, np.int64))


def as_tensor(image: Image.Image) -> Tensor:
    """float32 [channels, h, w], 0 to 1."""
    return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).float() / 255


def read_xml(path: Path) -> ElementTree.Element:
    """The root element. Refuses, by `InputError`, what is not XML, over 1 MiB, or declares a document type.

    Entities can only be declared in a document type, so none is ever expanded.
    """
    if path.stat().st_size > MAX_XML:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, an annotation may have {MAX_XML:,}")
    text = path.read_bytes()

    def refuse(*_):
        raise InputError(f"{path} declares a document type: annotations have none, and its entities are not expanded")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
        return ElementTree.fromstring(text)
    except InputError:
        raise
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is not XML: {error}") from error


def boxes_within(boxes: list[tuple[float, float, float, float]], width: int, height: int, where: str) -> Tensor:
    """Boxes (x0, y0, x1, y1) in pixels as float32 [n, 4].

    A box may stick out of its image by one pixel, as rounding leaves some of those published, and is cut off there.
    Raises `InputError`, with `where` in front, for one that is not finite, inside out, or further out.
    """
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        finite = all(math.isfinite(v) for v in (x0, y0, x1, y1))
        if not (finite and -1 <= x0 < x1 <= width + 1 and -1 <= y0 < y1 <= height + 1):
            raise InputError(
                f"{where}: box {i}, ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}), does not lie in its image of {width}x{height}"
            )
    most = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).clamp(min=0).minimum(most)
