"""The display of long work: bars on a terminal, and one line per step where there is none."""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Lines", "bar", "lines", "progress_bar"]

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)

INTERVAL = 1.0
"""Least seconds between two lines of one task."""


def progress_bar(**options: Any) -> Progress:
    """A progress display whose tasks have a field `note`; `options` are those of `rich.progress.Progress`."""
    return Progress(*COLUMNS, **options)


def lines(console: Console) -> "Lines":
    """The same as lines of text, for a log file or a pipe."""
    return Lines(*COLUMNS, console=console, disable=True)


class Lines(Progress):
    """Prints a line when a task begins its work or advances, at most one a second for each task: work that takes less stays silent.

    A line has the seconds since the start, the task, the steps done and in all, and the task's note.
    """

    def __init__(self, *columns: Any, **options: Any):
        super().__init__(*columns, **options)
        self._begin = time.monotonic()
        self._printed: dict[TaskID, tuple[float, Any]] = {}

    def add_task(self, *arguments: Any, **fields: Any) -> TaskID:
        task = super().add_task(*arguments, **fields)
        self._printed[task] = (time.monotonic(), None)
        if time.monotonic() - self._begin >= INTERVAL and fields.get("visible", True):
            self._print(task)
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        task = self.tasks[self.task_ids.index(task_id)]
        last, state = self._printed[task_id]
        if state == (now := (task.description, task.completed, task.fields.get("note", ""))):
            return
        if task.completed and (time.monotonic() - last >= INTERVAL or (task.finished and state is not None)):
            self._printed[task_id] = (time.monotonic(), now)
            self._print(task_id)

    def _print(self, task_id: TaskID) -> None:
        task = self.tasks[self.task_ids.index(task_id)]
        steps = "" if task.total is None else f" {task.completed:g}/{task.total:g}"
        note = task.fields.get("note", "")
        text = f"[{time.monotonic() - self._begin:.0f} s] {task.description}:{steps} {note}".rstrip().rstrip(":")
        print(text, file=self.console.file, flush=True)


def bar(progress: bool | Progress, shown: bool) -> AbstractContextManager[Progress]:
    """A display of its own, or one that somebody else starts and stops; one that shows nothing unless `shown`."""
    if isinstance(progress, Progress) and shown:
        return nullcontext(progress)
    return progress_bar(disable=not (progress and shown))
