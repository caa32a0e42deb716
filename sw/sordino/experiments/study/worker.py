"""A worker: takes points from a study's queue until all are done, and takes over those of workers that died."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from sordino_hw.spec.errors import SordinoError

from .plan import Point, Settings
from .store import Progress, Store, Watch
from .trial import run_trial

__all__ = ["work"]

GRACE = 60.0
"""Seconds without a heartbeat after which a worker counts as dead."""


def work(
    storage: str,
    name: str,
    *,
    grace: float = GRACE,
    report: Callable[[Progress], None] | None = None,
    run: Callable[[Settings, Point], dict[str, Any]] = run_trial,
) -> None:
    """Works on a study until every point of its plan is complete or has failed.

    While a trial runs, a thread raises the trial's heartbeat counter in the storage, four times in `grace` seconds. If a counter stays the
    same for `grace` seconds, the first worker that notices marks the trial as failed and queues its point again, at most three times. A
    `SordinoError` in a trial is a result: the point counts as failed with that message. Other errors leave the trial to be
    taken over, and are raised.

    `report` is called with the progress before each trial. Raises `InputError` if the study cannot be opened.
    """
    store, watch = Store(storage, name), Watch(grace)
    while True:
        store.release(watch)
        progress = store.progress()
        if report is not None:
            report(progress)
        if progress.done == progress.total:
            return
        taken = store.take()
        if taken is None:
            time.sleep(min(1.0, grace / 8))
            continue
        trial, point = taken
        try:
            with _beating(trial, grace / 4):
                record = run(store.settings, point)
            trial.set_user_attr("record", json.dumps(record))
            store.study.tell(trial, [record["accuracy"]["integer_validation"], record["cycles"]])
        except SordinoError as error:
            trial.set_user_attr("error", str(error))
            store.study.tell(trial, state=TrialState.FAIL)
        except UpdateFinishedTrialError:
            continue  # this worker was taken for dead, and another one has finished the trial
        except Exception:
            store.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise


@contextmanager
def _beating(trial: Trial, interval: float) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.is_set():
            try:
                trial.set_user_attr("beat", count)
            except UpdateFinishedTrialError:
                return
            count += 1
            stop.wait(interval)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
