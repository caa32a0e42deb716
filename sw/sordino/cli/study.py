"""`sordino study`: sparsity methods compared on one task, by workers that share a storage."""

import multiprocessing
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bars
from rich.progress import TaskID

from sordino_hw.spec.errors import InputError, ToolError

from ..experiments.study import LADDERS, STUDY_TASKS, Settings, Store, figures, summary_table, work
from ..experiments.study.plan import points
from ..report import render
from ..report.jsonfile import document, write_text
from .common import ArchOption, JsonOption, console, friendly, progress_bar, save_json


@friendly
def study(
    task: Annotated[str, typer.Argument(help=f"Task: {', '.join(STUDY_TASKS)}.")] = "digits-wide",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help=f"Comma-separated: {', '.join(LADDERS)}. Default: all; for single images without dal and cats."
        ),
    ] = None,
    strengths: Annotated[
        str, typer.Option("--strengths", help="Factors of each method's own strength, comma-separated.")
    ] = "0.3,1,3",
    costs: Annotated[
        str, typer.Option("--costs", help="Weights of the penalties, comma-separated: uniform, fanout, cycles.")
    ] = "uniform",
    seeds: Annotated[str, typer.Option("--seeds", help="Comma-separated.")] = "0,1,2",
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, max=256, help="Processes to start on this machine.")] = 1,
    storage: Annotated[
        str, typer.Option("--storage", help="File, or database URL (postgresql://..., sqlite:///...), that workers share.")
    ] = "study.journal",
    name: Annotated[str | None, typer.Option("--name", help="Name of the study in the storage; default: the task.")] = None,
    plain_epochs: Annotated[int, typer.Option("--plain-epochs", min=1, help="Epochs of the plain network.")] = 12,
    sparse_epochs: Annotated[int, typer.Option("--sparse-epochs", min=1, help="Epochs with the method.")] = 16,
    train_images: Annotated[int | None, typer.Option("--train-images", min=16, help="Use the first so many only.")] = None,
    timing_images: Annotated[int, typer.Option("--timing-images", min=1, help="Images whose cycles are counted.")] = 64,
    budget: Annotated[float, typer.Option("--budget", help="Validation accuracy that a method may lose.")] = 0.01,
    share: Annotated[
        float, typer.Option("--share", help="With cost cycles: part of the activations that a measurement removes.")
    ] = 0.25,
    grace: Annotated[float, typer.Option("--grace", min=0.5, help="Seconds after which a silent worker counts as dead.")] = 60.0,
    report_only: Annotated[bool, typer.Option("--report", help="Run nothing: print and write what the storage holds.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page to write; default STUDY.html.")] = None,
    arch: ArchOption = "ulx3s-85f",
    json: JsonOption = None,
) -> None:
    """Compare sparsity methods: methods x strengths x costs x seeds, as a table and a Pareto plot.

    Run the same command again to go on after an interruption, with more methods, strengths or seeds to extend the
    study, and on other machines, with the same --storage, for more workers: they share the queue. A trial whose worker
    dies is run again by another one.
    """
    settings = Settings(
        task,
        arch,
        plain_epochs,
        sparse_epochs,
        train_images=train_images,
        timing_images=timing_images,
        budget=budget,
        share=share,
    )
    wanted = _list(methods) if methods else [m for m in LADDERS if STUDY_TASKS[task].clips or m not in ("dal", "cats")]
    plan = points(wanted, _numbers(strengths, float, "--strengths"), _list(costs), _numbers(seeds, int, "--seeds"))
    name = name or task
    output = output or Path(f"{name}.html")
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: the folder {output.parent} does not exist.")
    store = Store(storage, name, None if report_only else settings)
    if not report_only:
        store.extend(plan)
        store.enqueue(store.progress().missing)
        with progress_bar() as bar:
            _run(store, workers, grace, bar)
    found = figures(store)
    console.print(summary_table(found))
    if found["failed"]:
        console.print(f"{len(found['failed'])} trials failed; the first: {found['failed'][0]['error']}")
    write_text(output, render(document("study", found)))
    console.print(f"Report: {output}")
    save_json(json, "study", found)


def _run(store: Store, workers: int, grace: float, bar: Bars) -> None:
    task = bar.add_task(f"study {store.name}", total=None, note="")
    if workers == 1 or not (store.progress().waiting or store.progress().running):
        work(store.storage, store.name, grace=grace, report=lambda p: _show(bar, task, p))
        _show(bar, task, store.progress())
        return
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(store.storage, store.name), kwargs={"grace": grace}, daemon=True) for _ in range(workers)
    ]
    for p in processes:
        p.start()
    try:
        while True:
            progress = store.progress()
            _show(bar, task, progress)
            if progress.done == progress.total:
                break
            if not any(p.is_alive() for p in processes):
                raise ToolError(
                    f"study: every worker has ended (exit codes {', '.join(str(p.exitcode) for p in processes)}), and "
                    f"{progress.total - progress.done} trials are left. The same command goes on with them; with --workers 1 it shows the error."
                )
            time.sleep(0.5)
        for p in processes:
            p.join(grace)
    finally:
        for p in processes:
            if p.is_alive():
                p.terminate()
                p.join()


def _show(bar: Bars, task: TaskID, progress) -> None:
    note = f"{len(progress.running)} running" + (f", {len(progress.failed)} failed" if progress.failed else "")
    bar.update(task, completed=progress.done, total=progress.total, note=note)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str, kind: type, option: str) -> list:
    try:
        return [kind(part) for part in _list(text)]
    except ValueError:
        raise InputError(f"{option} {text}: give numbers, comma-separated.") from None
