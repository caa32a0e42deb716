"""`sordino study`: sparsity methods compared on one task, by workers that share a storage."""

import multiprocessing
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sordino_hw.spec.errors import ToolError

from .common import DEFAULT_ARCH, OUTPUT, ArchType, Names, Numbers, check_folder, console, json_option, progress_bar, save_json
from .names import COSTS, LADDERS, STUDY_TASKS

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ..experiments.study import Store


@click.command(short_help="Compare sparsity methods on one task.")
@click.argument("task", type=Names(STUDY_TASKS), default="digits-wide")
@click.option(
    "--methods",
    type=Names(LADDERS),
    help=f"Comma-separated: {', '.join(LADDERS)}. [default: all; for single images without dal and cats]",
)
@click.option(
    "--strengths",
    type=Numbers(float, "0.3,1,3"),
    default="0.3,1,3",
    show_default=True,
    help="Factors of each method's own strength, comma-separated.",
)
@click.option(
    "--costs",
    type=Names(COSTS),
    default="uniform",
    show_default=True,
    help=f"Weights of the penalties, comma-separated: {', '.join(COSTS)}.",
)
@click.option("--seeds", type=Numbers(int, "0,1,2"), default="0,1,2", show_default=True, help="Comma-separated.")
@click.option(
    "--workers", "-j", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes to start on this machine."
)
@click.option(
    "--storage",
    default="study.journal",
    show_default=True,
    help="File, or database URL (postgresql://..., sqlite:///...), that workers share.",
)
@click.option("--name", help="Name of the study in the storage. [default: the task]")
@click.option("--plain-epochs", type=click.IntRange(min=1), default=12, show_default=True, help="Epochs of the plain network.")
@click.option("--sparse-epochs", type=click.IntRange(min=1), default=16, show_default=True, help="Epochs with the method.")
@click.option("--train-images", type=click.IntRange(min=16), help="Use only so many, the first ones.")
@click.option("--timing-images", type=click.IntRange(min=1), default=64, show_default=True, help="Images whose cycles are counted.")
@click.option("--budget", type=float, default=0.01, show_default=True, help="Validation accuracy that a method may lose.")
@click.option(
    "--share",
    type=float,
    default=0.25,
    show_default=True,
    help="With cost cycles: share of the activations that a measurement removes.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0.5),
    default=60.0,
    show_default=True,
    help="Seconds after which a silent worker counts as dead.",
)
@click.option("--report", "report_only", is_flag=True, help="Run nothing: print and write what the storage holds.")
@click.option("--output", "-o", type=OUTPUT, help="HTML page to write. [default: STUDY.html]")
@click.option(
    "--arch", type=ArchType(as_text=True), default=DEFAULT_ARCH, show_default=True, help="Architecture; see `sordino arch`."
)
@json_option
def study(
    task: str,
    methods: str | None,
    strengths: tuple[float, ...],
    costs: str,
    seeds: tuple[int, ...],
    workers: int,
    storage: str,
    name: str | None,
    plain_epochs: int,
    sparse_epochs: int,
    train_images: int | None,
    timing_images: int,
    budget: float,
    share: float,
    grace: float,
    report_only: bool,
    output: Path | None,
    arch: str,
    json: str | None,
) -> None:
    """Compare sparsity methods: methods x strengths x costs x seeds, as a table and a Pareto plot.

    Run the same command again to go on after an interruption, with more methods, strengths or seeds to extend the
    study, and on other machines, with the same --storage, for more workers: they share the queue. A trial whose worker
    dies is run again by another one.
    """
    name = name or task
    output = output or Path(f"{name}.html")
    check_folder(output, json)
    from ..experiments.study import LADDERS, STUDY_TASKS, Settings, Store, figures, summary_table
    from ..experiments.study.plan import points
    from ..report import render
    from ..report.jsonfile import document, write_text

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
    plan = points(wanted, strengths, _list(costs), seeds)
    store = Store(storage, name, None if report_only else settings)
    if not report_only:
        store.extend(plan)
        store.enqueue(store.progress().missing)
        with progress_bar() as bar:
            _run(store, workers, grace, bar)
    found = figures(store)
    out = console()
    out.print(summary_table(found))
    if found["failed"]:
        out.print(f"{len(found['failed'])} trials failed; the first: {found['failed'][0]['error']}", markup=False)
    write_text(output, render(document("study", found)))
    out.print(f"Report: {output}", markup=False)
    save_json(json, "study", found)


def _run(store: "Store", workers: int, grace: float, bar: "Bars") -> None:
    from ..experiments.study import work

    task = bar.add_task(f"study {store.name}", total=None, note="")
    if workers == 1 or not (store.progress().waiting or store.progress().running):
        work(store.storage, store.name, grace=grace, report=lambda p: _show(bar, task, p))
        _show(bar, task, store.progress())
        return
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(store.storage, store.name, grace), daemon=True) for _ in range(workers)]
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


def _work(storage: str, name: str, grace: float) -> None:
    """A worker process. Ctrl-C reaches every process of the terminal; the one that started the workers ends them."""
    from ..experiments.study import work

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(storage, name, grace=grace)


def _show(bar: "Bars", task: "TaskID", progress) -> None:
    note = f"{len(progress.running)} running" + (f", {len(progress.failed)} failed" if progress.failed else "")
    bar.update(task, completed=progress.done, total=progress.total, note=note)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
