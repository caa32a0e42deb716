"""A study in one of Optuna's storages, which several workers on several machines can share."""

import json
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.text import printable

from ...sparsity.cost import COSTS
from .journal import repair
from .ladders import LADDERS
from .plan import Point, Settings

__all__ = ["Store", "Watch", "without_secrets"]

ATTEMPTS = 3
"""How often a point is tried if its workers die."""

SPACE: dict[str, BaseDistribution] = {
    "method": CategoricalDistribution(tuple(LADDERS)),
    "strength": FloatDistribution(1e-9, 1e9, log=True),
    "cost": CategoricalDistribution(COSTS),
    "seed": IntDistribution(0, (1 << 31) - 1),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Watch:
    """Tells which workers are dead: those whose heartbeat counter has not changed for `grace` seconds.

    The seconds are measured with this machine's clock only, so the clocks of several machines need not agree.
    """

    def __init__(self, grace: float):
        self.grace = grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def dead(self, trial: FrozenTrial) -> bool:
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        last, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or beat != last:
            self._seen[trial.number], since = (beat, now), now
        return now - since > self.grace


@dataclass
class Progress:
    """The points of a study by state."""

    complete: list[Point] = field(default_factory=list)
    failed: dict[Point, str] = field(default_factory=dict)
    running: list[Point] = field(default_factory=list)
    waiting: list[Point] = field(default_factory=list)
    missing: list[Point] = field(default_factory=list)
    """In the plan, but neither done nor queued: lost with a worker, or not queued yet."""

    @property
    def total(self) -> int:
        return sum(len(x) for x in (self.complete, self.failed, self.running, self.waiting, self.missing))

    @property
    def done(self) -> int:
        return len(self.complete) + len(self.failed)


class Store:
    """A study in a storage.

    Parameters
    ----------
    storage : a file (Optuna's journal; it may lie on a network file system) or a URL such as
        `postgresql://user@host/name` or `sqlite:///study.db` (SQLAlchemy)
    name : of the study; a storage can hold several
    settings : None to open a study that exists; else it is created if need be

    Raises `InputError` for a storage that cannot be opened, a study that is not there or has other settings.
    """

    def __init__(self, storage: str, name: str, settings: Settings | None = None):
        self.storage, self.name, shown = storage, name, without_secrets(storage, storage)
        try:
            backend = _open(storage)
            if settings is None:
                self.study = optuna.load_study(study_name=name, storage=backend)
            else:
                self.study = optuna.create_study(
                    study_name=name, storage=backend, directions=["maximize", "minimize"], load_if_exists=True
                )
        except KeyError:
            raise InputError(f"study: {shown} holds no study {name!r}. Start one with `sordino study`.") from None
        except Exception as error:  # what drivers and file systems raise
            reason = printable(without_secrets((str(error).splitlines() or [""])[0], storage))
            raise InputError(
                f"study: the storage {shown} cannot be opened ({type(error).__name__}: {reason}). "
                "Name a file in a folder that exists, or a database URL whose driver is installed."
            ) from None
        found = self.study.user_attrs.get("settings")
        if found is None:
            if settings is None:
                raise InputError(f"study: {name!r} in {shown} is no study of sordino.")
            self.study.set_user_attr("settings", settings.to_dict())
            found = settings.to_dict()
        found = Settings(**found).to_dict()  # settings that are younger than the study have their defaults
        if settings is not None and found != settings.to_dict():
            mine = settings.to_dict()
            different = ", ".join(f"{k}: {found.get(k)!r} / {v!r}" for k, v in mine.items() if found.get(k) != v)
            raise InputError(f"study: {name!r} in {shown} has other settings ({different}). Use them, or another --name.")
        self.settings = Settings(**found)

    # -- the plan --------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> list[Point]:
        """Every point that was asked for, by any of the study's commands."""
        parts = [v for k, v in sorted(self.study.user_attrs.items()) if k.startswith("plan:")]
        return list(dict.fromkeys(Point(*p) for part in parts for p in part))

    def extend(self, points: Iterable[Point]) -> None:
        """Adds points to the plan."""
        have = set(self.plan)
        new = [[p.method, p.strength, p.cost, p.seed] for p in points if p not in have]
        if new:  # a key of its own: two machines that extend the plan at once do not overwrite each other
            self.study.set_user_attr(f"plan:{time.time():.3f}:{os.getpid()}", new)

    def enqueue(self, points: Iterable[Point]) -> None:
        for p in points:
            self.study.enqueue_trial({"method": p.method, "strength": p.strength, "cost": p.cost, "seed": p.seed})

    def progress(self) -> Progress:
        """The plan's points by the state of their trials."""
        by_point: dict[Point, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            point = point_of(trial)
            if point is not None:
                by_point.setdefault(point, []).append(trial)
        found = Progress()
        for point in self.plan:
            trials = by_point.get(point, [])
            states = {t.state for t in trials}
            errors = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
            if TrialState.COMPLETE in states:
                found.complete.append(point)
            elif errors:
                found.failed[point] = errors[0]
            elif TrialState.RUNNING in states:
                found.running.append(point)
            elif TrialState.WAITING in states:
                found.waiting.append(point)
            elif len(tried := [t for t in trials if "duplicate" not in t.user_attrs]) >= ATTEMPTS:
                found.failed[point] = f"its worker died {len(tried)} times"
            else:
                found.missing.append(point)
        return found

    # -- trials ----------------------------------------------------------------------------------------------------

    def release(self, watch: Watch) -> list[Point]:
        """Fails the trials of dead workers and queues what the plan misses, those points among it."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if watch.dead(trial):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        missing = self.progress().missing
        self.enqueue(missing)
        return missing

    def take(self) -> tuple[Trial, Point] | None:
        """The next point of the queue, or None if it is empty."""
        if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = self.study.ask(SPACE)
        frozen = self.study.trials[trial.number]
        point = point_of(frozen)
        if "fixed_params" not in frozen.system_attrs or point is None:  # another worker took the last one: this is a sample
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        others = (t for t in self.study.get_trials(deepcopy=False) if t.number != trial.number and point_of(t) == point)
        if any(t.state is TrialState.COMPLETE or (t.state is TrialState.RUNNING and t.number < trial.number) for t in others):
            trial.set_user_attr("duplicate", True)  # two machines queued it at once
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        return trial, point

    def records(self) -> list[dict[str, Any]]:
        """One dict per complete point: the point, its options, and what `run_trial` returned."""
        found: dict[Point, dict[str, Any]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            point = point_of(trial)
            if point is not None and point not in found:
                found[point] = {**vars(point), **json.loads(trial.user_attrs["record"])}
        return [found[p] for p in self.plan if p in found]


def point_of(trial: FrozenTrial) -> Point | None:
    """The point of a trial, queued or run; None for one that came from no queue."""
    p = trial.system_attrs.get("fixed_params")
    return None if p is None else Point(p["method"], float(p["strength"]), p["cost"], int(p["seed"]))


def _open(storage: str) -> optuna.storages.BaseStorage:
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    path = Path(storage)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    if repaired := repair(path):
        warnings.warn(repaired, stacklevel=4)
    return JournalStorage(JournalFileBackend(str(path)))


def without_secrets(text: str, storage: str) -> str:
    """`text` without the secrets of a storage's URL: its password, and the values of its query."""
    try:
        url = make_url(storage)
        secrets = [value for values in url.normalized_query.values() for value in values]
        secrets += [] if url.password is None else [str(url.password), quote(str(url.password))]
    except ArgumentError:  # a file, or a URL that is not well formed, which may have its secrets anywhere
        secrets = [storage.partition("://")[2]] if "://" in storage else []
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
