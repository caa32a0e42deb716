"""The progress display of a training."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "progress_bar"]


def progress_bar(**options: Any) -> Progress:
    """A progress display whose tasks have a field `note`; `options` are those of `rich.progress.Progress`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, **options)


def bar(progress: bool | Progress, shown: bool) -> AbstractContextManager[Progress]:
    """A display of its own, or one that somebody else starts and stops; one that shows nothing unless `shown`."""
    if isinstance(progress, Progress) and shown:
        return nullcontext(progress)
    return progress_bar(disable=not (progress and shown))
