"""Tables for the terminal whose text is shown as it is."""

from typing import Any

import rich.table
from rich.text import Text

from sordino_hw.spec.text import printable

__all__ = ["Table"]


class Table(rich.table.Table):
    """A table of rich whose title, headers and cells are plain text: names in them come from files, and nothing in them is markup or
    reaches the terminal as a control sequence. Cells that are to have a style are `rich.text.Text`."""

    def __init__(self, *headers: Any, title: str | None = None, **options: Any):
        super().__init__(*headers, title=None if title is None else _plain(title), **options)

    def add_column(self, header: Any = "", footer: Any = "", **options: Any) -> None:
        super().add_column(*(_plain(x) if isinstance(x, str) else x for x in (header, footer)), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(_plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def _plain(text: str) -> Text:
    return Text(printable(text, limit=1000))
