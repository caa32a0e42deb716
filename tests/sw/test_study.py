"""`sordino study`: the plan, workers that share a storage (and die), the choice of strengths, the page."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from click.testing import CliRunner
from optuna.trial import TrialState

import sordino as sd
from sordino.cli import app
from sordino.experiments.study import LADDERS, Point, Settings, Store, figures, run_trial, work
from sordino.experiments.study.plan import points
from sordino.experiments.study.store import Watch
from sordino.experiments.study.summary import group, rows
from sordino.report import render
from sordino.report.schema import validate

TINY = Settings(task="digits-wide", plain_epochs=1, sparse_epochs=1, train_images=64, timing_images=2)
RELU, L1 = Point("relu", 1.0, "uniform", 0), Point("l1", 1.0, "uniform", 0)


def fake(settings, point):
    """A trial's figures without training: they follow from the point."""
    accuracy = dict.fromkeys(
        ("float_validation", "float_test", "integer_validation", "integer_test"), 0.9 - 0.01 * point.strength * point.seed
    )
    return {"accuracy": accuracy, "density": 0.5, "nonzero": 100.0, "events": 10.0, "cycles": 1000.0 / point.strength}


def sleeper(settings, point):
    """Never ends for the first point: the worker is killed over it."""
    if point == RELU:
        time.sleep(600)
    return fake(settings, point)


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


def filled(storage, plan, settings=TINY):
    store = Store(storage, "s", settings)
    store.extend(plan)
    store.enqueue(store.progress().missing)
    return store


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_points_hold_the_baseline_and_every_combination_once():
    found = points(["l1", "wta"], [0.5, 1.0], ["uniform", "cycles"], [0, 1])
    assert len(found) == len(set(found)) == 2 + 2 * 2 * 2 + 2 * 2
    assert {p.cost for p in found if p.method == "wta"} == {"uniform"}


def test_every_method_has_a_ladder_that_it_accepts():
    assert set(LADDERS) == set(sd.nn.METHODS)
    for method, options in LADDERS.items():
        for strength in (0.01, 1.0, 30.0):
            sd.nn.method(method)(**options(strength))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((["l0"], [1], ["uniform"], [0]), "unknown method 'l0'"), ((["l1"], [0], ["uniform"], [0]), "strength must be positive"),
     ((["l1"], [1], ["watts"], [0]), "unknown cost 'watts'"), ((["l1"], [1], ["uniform"], []), "one seed")],
)  # fmt: skip
def test_plans_that_are_refused(arguments, message):
    with pytest.raises(sd.InputError, match=message):
        points(*arguments)


# -- workers -----------------------------------------------------------------------------------------------------------


def test_a_worker_finishes_the_plan_and_a_second_one_finds_nothing_to_do(storage):
    store = filled(storage, [RELU, L1])
    seen = []
    work(storage, "s", run=fake, report=lambda p: seen.append((p.done, p.total)))
    assert seen[0] == (0, 2) and seen[-1] == (2, 2)
    assert [Point(r["method"], r["strength"], r["cost"], r["seed"]) for r in store.records()] == [RELU, L1]
    work(storage, "s", run=None)  # would fail on any trial
    assert len(store.study.trials) == 2


def test_a_study_is_extended_and_its_settings_hold(storage):
    filled(storage, [RELU])
    work(storage, "s", run=fake)
    store = filled(storage, [RELU, L1])
    progress = store.progress()
    assert progress.complete == [RELU] and progress.waiting == [L1]
    with pytest.raises(sd.InputError, match=r"has other settings \(sparse_epochs: 1 / 2\)"):
        Store(storage, "s", Settings(**{**TINY.to_dict(), "sparse_epochs": 2}))


def test_a_study_that_is_older_than_a_setting_is_opened(storage):
    old = {k: v for k, v in TINY.to_dict().items() if k != "share"}
    store = filled(storage, [RELU])
    store.study.set_user_attr("settings", old)
    assert Store(storage, "s", TINY).settings == TINY
    with pytest.raises(sd.InputError, match=r"has other settings \(share: 0.25 / 1.0\)"):
        Store(storage, "s", Settings(**{**old, "share": 1.0}))
    with pytest.raises(sd.InputError, match="share must be above 0"):
        Settings(share=0.0)


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_worker_loses_no_trial(storage):
    """SIGKILL in the middle of a trial: another worker takes the point over."""
    store = filled(storage, [RELU, L1])
    process = multiprocessing.get_context("spawn").Process(target=work, args=(storage, "s"), kwargs={"grace": 1.0, "run": sleeper})
    process.start()
    deadline = time.monotonic() + 60
    while not any("beat" in t.user_attrs for t in store.study.trials) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.progress().running == [RELU]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.progress().running == [RELU]  # nobody has noticed yet
    begin = time.monotonic()
    work(storage, "s", grace=1.0, run=fake)
    assert time.monotonic() - begin > 1.0
    assert store.progress().complete == [RELU, L1]
    states = [t.state for t in store.study.trials]
    assert states.count(TrialState.FAIL) == 1 and states.count(TrialState.COMPLETE) == 2


def test_a_living_worker_is_left_alone(storage):
    store = filled(storage, [RELU])
    watch = Watch(0.5)

    def slow(settings, point):
        for _ in range(8):
            time.sleep(0.25)
            assert not store.release(watch)
        return fake(settings, point)

    work(storage, "s", grace=0.5, run=slow)
    assert [t.state for t in store.study.trials] == [TrialState.COMPLETE]


def test_a_worker_that_was_taken_for_dead_goes_on(storage):
    store = filled(storage, [RELU, L1])

    def usurped(settings, point):
        if point == RELU and not store.records():
            store.study.tell(0, state=TrialState.FAIL)
            store.enqueue(store.progress().missing)
        return fake(settings, point)

    work(storage, "s", run=usurped)
    assert store.progress().complete == [RELU, L1]


def test_a_point_that_was_queued_twice_runs_once(storage):
    store = filled(storage, [RELU])
    store.enqueue([RELU, RELU, RELU])
    runs = []
    first = store.take()
    assert first is not None and first[1] == RELU
    assert [store.take() for _ in range(3)] == [None] * 3
    store.study.tell(first[0], state=TrialState.FAIL)  # its worker dies: the duplicates do not count as attempts
    work(storage, "s", run=lambda s, p: runs.append(p) or fake(s, p))
    assert runs == [RELU] and store.progress().complete == [RELU]


def test_errors_of_the_model_are_results_and_others_are_raised(storage):
    store = filled(storage, [RELU, L1])

    def refused(settings, point):
        if point == L1:
            raise sd.CompileError("does not fit")
        return fake(settings, point)

    work(storage, "s", run=refused)
    assert store.progress().failed == {L1: "does not fit"} and figures(store)["failed"][0]["error"] == "does not fit"

    broken = filled(storage, [Point("l1", 2.0, "uniform", 0)])
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            work(storage, "s", run=lambda s, p: 1 / 0)
    assert "died 3 times" in next(v for p, v in broken.progress().failed.items() if p.strength == 2.0)
    work(storage, "s", run=None)


def test_storages_that_cannot_be_opened(tmp_path):
    for storage in (str(tmp_path / "no" / "where"), "nonsense://x", f"sqlite:///{tmp_path}/no/where.db"):
        with pytest.raises(sd.InputError, match="cannot be opened"):
            Store(storage, "s", TINY)
    with pytest.raises(sd.InputError, match="holds no study 's'"):
        Store(str(tmp_path / "new"), "s")


# -- figures -----------------------------------------------------------------------------------------------------------


def record(method, strength, seed, validation, test, cycles):
    accuracy = {"float_validation": 1.0, "float_test": test, "integer_validation": validation, "integer_test": test}
    return {"method": method, "strength": strength, "cost": "uniform", "seed": seed, "accuracy": accuracy, "density": 0.5,
            "nonzero": cycles / 10, "events": 1.0, "cycles": cycles}  # fmt: skip


def test_strengths_are_chosen_on_validation_and_reported_on_test():
    trials = [record("relu", 1.0, s, 0.98, 0.97, 1000.0) for s in (0, 1)]
    trials += [record("l1", 1.0, s, 0.975, 0.90, 600.0 + 20 * s) for s in (0, 1)]  # fine on validation, whatever the test says
    trials += [record("l1", 3.0, s, 0.95, 0.99, 300.0) for s in (0, 1)]  # too weak on validation
    trials += [record("star", k, 0, 0.9 - k / 100, 0.9, 100.0 / k) for k in (1.0, 3.0)]
    found = {r["method"]: r for r in rows(group(trials), budget=0.01)}
    assert found["l1"]["strength"] == 1.0 and found["l1"]["integer_test"]["mean"] == pytest.approx(0.90)
    assert found["l1"]["cycles"] == {"mean": 610.0, "sd": pytest.approx(14.142, abs=1e-3)}
    assert found["l1"]["fewer_cycles"] == pytest.approx(0.39) and found["l1"]["within_budget"]
    assert not found["star"]["within_budget"] and found["star"]["strength"] == 1.0 and found["star"]["cycles"]["sd"] is None


def test_a_trial_measures_what_the_integer_models_say(digits):
    relu, sparse = (run_trial(TINY, p) for p in (RELU, Point("fatrelu", 2.0, "uniform", 0)))
    assert set(relu) == set(sparse) >= {"accuracy", "density", "nonzero", "cycles", "layers", "seconds"}
    assert sparse["nonzero"] < 0.5 * relu["nonzero"] and sparse["cycles"] < relu["cycles"]
    again = run_trial(TINY, RELU)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in relu.items() if k != "seconds"}


def test_a_trial_on_clips_counts_what_changes():
    settings = Settings(task="video", plain_epochs=1, sparse_epochs=1, train_images=32, timing_images=2)
    found = run_trial(settings, Point("dal", 1.0, "fanout", 0))
    assert found["changes"] > 0 and found["cycles"] > 0 and 0 <= found["accuracy"]["integer_test"] <= 1
    delta = found["delta"]
    assert delta["test"] == found["accuracy"]["integer_test"]  # differences without thresholds are exact
    assert delta["validation"] == found["accuracy"]["integer_validation"]
    assert delta["later_events"] < delta["delta_events"] < delta["plain_events"]  # 8-bit pixels of a noisy sensor would change
    assert "input" not in found["densities"]


def test_cycles_of_a_difference_cannot_be_measured():
    settings = Settings(task="video", plain_epochs=1, sparse_epochs=1, train_images=16, timing_images=2)
    with pytest.raises(sd.InputError, match="the array runs frame by frame"):
        run_trial(settings, Point("cats", 1.0, "cycles", 0))


COMMAND = ["study", "digits-wide", "--strengths", "1", "--plain-epochs", "1", "--sparse-epochs", "1", "--train-images", "64"]
COMMAND += ["--timing-images", "2"]


def test_the_command_writes_a_page_and_figures_and_resumes(tmp_path):
    arguments = [*COMMAND, "--methods", "l1", "--costs", "cycles", "--seeds", "0", "--storage", str(tmp_path / "j")]
    arguments += ["--json", str(tmp_path / "s.json"), "-o", str(tmp_path / "s.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    validate((tmp_path / "s.json").read_text(), "study")
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["command"] == "study" and found["pending"] == 0 and [r["method"] for r in found["rows"]] == ["relu", "l1"]
    page = (tmp_path / "s.html").read_text()
    assert page == render(found) and "<svg" in page and "src=" not in page and 'href="http' not in page
    seconds = [t["seconds"] for t in found["trials"]]
    assert CliRunner().invoke(app, [*arguments, "--workers", "2"]).exit_code == 0
    assert [t["seconds"] for t in json.loads((tmp_path / "s.json").read_text())["trials"]] == seconds  # nothing ran again


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    arguments = [*COMMAND, "--methods", "l1,star", "--seeds", "0,1", "--workers", "2", "--storage", str(tmp_path / "j")]
    result = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "s.json"), "-o", str(tmp_path / "s.html")])
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "s.json").read_text())["trials"]) == 6
    assert len(Store(str(tmp_path / "j"), "digits-wide").study.trials) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["mnist"], "unknown task"), (["--methods", "l0"], "unknown method"), (["--seeds", "a"], "give numbers"), (["-o", "/no/where/x.html"], "does not exist")],
)  # fmt: skip
def test_the_command_refuses_in_one_paragraph(arguments, message, tmp_path):
    result = CliRunner().invoke(app, ["study", *arguments, "--storage", str(tmp_path / "j")])
    assert result.exit_code == 2 and message in result.output and not list(tmp_path.iterdir())


# -- storages that were damaged, or hold a secret ----------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "continued", "both"])
def test_a_torn_journal_keeps_every_finished_trial(tmp_path, damage):
    """A disk that fills up leaves the start of a record; with space again, the next record goes on in its line."""
    path = tmp_path / "study.journal"
    storage = str(path)
    filled(storage, [RELU, L1])
    work(storage, "s", run=fake)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = lines[-1][: len(lines[-1]) // 2]
    torn = {
        "cut": whole + cut,
        "continued": b"".join(lines[:3]) + cut + b"".join(lines[3:]),
        "both": b"".join(lines[:3]) + cut + b"".join(lines[3:]) + cut,
    }[damage]
    path.write_bytes(torn)
    with pytest.warns(
        UserWarning,
        match=r"^.*study\.journal: \d records were cut off .* set aside in .*study\.journal\.torn, and all others are kept\.$",
    ):
        store = Store(storage, "s")
    assert set(store.progress().complete) == {RELU, L1} and len(store.records()) == 2
    assert path.read_bytes() == whole
    assert cut in (tmp_path / "study.journal.torn").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["study.journal", "study.journal.torn"]


def test_what_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a journal\nat all")
    with pytest.raises(sd.InputError, match=r"^study: the storage .*notes\.txt cannot be opened \("):
        Store(str(path), "s", TINY)
    assert path.read_text() == "not a journal\nat all" and os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "url, shown",
    [
        ("postgresql://me:hunter2@host/db", "postgresql://me:***@host/db"),
        ("sqlite:////nowhere/at/all/a.db?password=hunter2", "sqlite:////nowhere/at/all/a.db?password=***"),
        ("no such://me:hunter2@host", "no such://***"),
    ],
)
def test_secrets_of_a_storage_are_not_shown(url, shown):
    with pytest.raises(sd.InputError) as refused:
        Store(url, "s", TINY)
    assert "hunter2" not in str(refused.value) and f"the storage {shown} cannot be opened" in str(refused.value)
