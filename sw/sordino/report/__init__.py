"""Reports: figures as JSON documents, tables for the terminal, and self-contained HTML pages."""

from collections.abc import Mapping
from typing import Any

__all__ = ["render"]


def render(document: Mapping[str, Any]) -> str:
    """The HTML page of a command's document. Raises `InputError` for a command without a page, and for incomplete figures."""
    from .pages import page  # Matplotlib and Jinja are imported where a page is made

    return page(document)
