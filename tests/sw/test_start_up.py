"""What a command costs before it does anything: which modules it imports, and processor time beside that of `import torch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sordino as sd
from sordino.cli import names

HEAVY = ("torch", "torchao", "sklearn", "matplotlib", "optuna", "pydantic", "numba", "scipy")


def modules(code: str, arguments: list[str], environment: dict[str, str] | None = None) -> set[str]:
    """Top-level modules that are there when a program ends."""
    program = (
        "import sys, atexit, json\natexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = {['sordino', *arguments]!r}\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.fixture(scope="module")
def program(digits_program, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "digits.sdn"
    digits_program.save(path)
    return str(path)


COMMAND = "from sordino.cli import main\nmain()"
TAB = {"_SORDINO_COMPLETE": "bash_complete", "COMP_WORDS": "sordino train --method s", "COMP_CWORD": "3"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["study", "--help"],
        ["bench", "fpga", "--help"],
        ["doctor"],
        ["arch", "list"],
    ],
    ids=" ".join,
)
def test_help_and_doctor_import_nothing_heavy(arguments):
    assert not modules(COMMAND, arguments) & {*HEAVY} - ({"pydantic"} if arguments == ["doctor"] else set())


def test_tab_imports_nothing_heavy():
    assert not modules(COMMAND, [], TAB) & {*HEAVY}


def test_disasm_imports_nothing_heavy(program):
    assert not modules(COMMAND, ["disasm", program]) & {*HEAVY}


def test_the_package_itself_imports_nothing_heavy():
    assert not modules("import sordino", []) & {*HEAVY}
    assert not modules("import sordino, torch\nsordino.check\nsordino.train.fit", []) & {
        "sklearn",
        "torchao",
        "optuna",
        "matplotlib",
    }


def test_every_name_of_the_package_is_there():
    assert set(sd.__all__) <= set(dir(sd))
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        sd.quantise  # noqa: B018


def test_names_that_the_help_shows_are_those_that_exist():
    from sordino.experiments.study import LADDERS, STUDY_TASKS
    from sordino.experiments.tasks import TASKS
    from sordino.nn import METHODS
    from sordino.sparsity.activations import SMOOTH
    from sordino.sparsity.cost import COSTS
    from sordino_hw.fpga import DEVICES

    assert set(names.METHODS) == set(METHODS)
    assert tuple(TASKS) == names.TASKS and tuple(STUDY_TASKS) == names.STUDY_TASKS and tuple(LADDERS) == names.LADDERS
    assert tuple(SMOOTH) == names.SMOOTH
    assert set(names.COSTS) == set(COSTS) and tuple(DEVICES) == names.DEVICES


def test_ratios_of_processor_time():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import start_up
    finally:
        sys.path.pop(0)
    found = start_up.measure(2, with_check=False)["ratios"]
    assert set(found) == {"--help", "Tab", "disasm", "doctor", "import sordino"}
    for name, figures in found.items():  # twice the limits, which the benchmark holds on a quiet machine
        assert figures["ratio"] <= 2 * figures["limit"], (name, figures)
