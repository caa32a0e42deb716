"""Metrics of a training on disk: a CSV file, and TensorBoard's event files where that package is installed."""

import csv
import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

from .history import Epoch

__all__ = ["Metrics"]


class Metrics:
    """Writes `metrics.csv` into a folder, and event files beside it if the package `tensorboard` is installed.

    The CSV file has a line for each epoch and a column for each figure of `Epoch.row`. It is written anew, whole or not at
    all, from the epochs so far: a crash leaves that of the epoch before, and a training that is resumed has every epoch
    once, whatever was in the file. To TensorBoard, new epochs replace those of an earlier run in the folder.

    Without a folder nothing is written.
    """

    def __init__(self, folder: str | os.PathLike | None):
        self.folder = None if folder is None else Path(folder)
        self._board: Any = None

    def start(self, epochs: Sequence[Epoch]) -> None:
        """Makes the folder, for a training that has done `epochs`. Raises `InputError` if that is not possible."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder}: {error.strerror}. Choose a folder that can be made and written."
            ) from None
        self._write(epochs)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder), purge_step=len(epochs))

    def add(self, epochs: Sequence[Epoch]) -> None:
        """Writes the epochs so far, of which the last one is new. Raises `InputError` if that is not possible."""
        if self.folder is None:
            return
        self._write(epochs)
        if self._board is not None:
            row = epochs[-1].row()
            step = int(row.pop("epoch"))
            for name, value in row.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def _write(self, epochs: Sequence[Epoch]) -> None:
        rows = [e.row() for e in epochs]
        text = io.StringIO()
        table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        assert self.folder is not None
        with replacing(self.folder / "metrics.csv", InputError) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
