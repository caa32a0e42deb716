"""Amaranth carries no types: everything but `lib.enum` is Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
