"""What the documentation prints is what its commands print, and its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("examples/**/*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(?:#[^)]*)?\)")

SESSIONS = [(page, session) for page in PAGES for session in CONSOLE.findall(page.read_text())]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page, session", SESSIONS, ids=[f"{name(p)}-{i}" for i, (p, _) in enumerate(SESSIONS)])
def test_commands_print_what_the_page_says(page, session):
    command, _, printed = session.partition("\n")
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "python", "only Python runs here; show other commands in a block without `console`"
    run = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "120"}
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == printed


def test_index_names_every_page():
    folder = ROOT / "docs"
    pages = {str(p.relative_to(folder)) for p in folder.rglob("*.md")} - {"README.md"}
    listed = set(LINK.findall((folder / "README.md").read_text()))
    beneath = {p for p in pages if (folder / p).parent.name in ("api", "decisions") and not p.endswith("README.md")}
    assert pages - beneath <= listed
    for page in beneath:
        assert f"({Path(page).name})" in (folder / page).with_name("README.md").read_text(), f"{page} is in no index"


def test_site_has_every_page():
    """In mkdocs.yml; decisions are reached from their index."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md") if not re.match(r"\d{4}-", p.name)]
    assert [page for page in pages if not re.search(rf"\s{re.escape(page)}$", navigation, re.MULTILINE)] == []


def test_tutorial_shows_its_example():
    example = (ROOT / "examples" / "own_network.py").read_text()
    blocks = PYTHON.findall((ROOT / "docs" / "tutorials" / "own-network.md").read_text())
    assert blocks
    assert [block for block in blocks if block.strip() not in example] == []


def sentences(text: str) -> list[str]:
    """The sentences of a page, without code; every cell of a table by itself."""
    text = re.sub(r"^(```.*?^```|    .*?)$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|`", "", text)
    blocks = re.split(r"\n\s*\n|\n#+ |\n\s*[-*] |\n\d+\. |\||\n(?=\|)", text)
    return [" ".join(s.split()) for block in blocks for s in re.split(r"(?<=[.!?])\s", block)]


SHORT = [p for p in PAGES if (p.name == "README.md" and p.parent == ROOT) or p.parent.name in ("start", "tutorials")]


@pytest.mark.parametrize("page", SHORT, ids=name)
def test_sentences_are_short(page):
    assert [s for s in sentences(page.read_text()) if len(s.split()) > 30] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page):
    """Paths of the repository that a page names in full, such as `hw/sordino_hw/spec/arch.py`; not those of a table's new files."""
    named = re.findall(r"`((?:hw|sim|compiler|sw|tests|docs|benchmarks|examples)/[\w./-]+)(?:::\w+)?`(?! \| new)", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken


def test_contributing_names_every_folder():
    table = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [
        ROOT / p for p in ("hw/sordino_hw", "hw/sordino_hw/gateware", "sim/sordino_sim", "compiler/sordino_compiler", "sw/sordino")
    ]
    folders = [str(f.parent.relative_to(ROOT)) for package in packages for f in package.glob("*/__init__.py")]
    assert folders
    assert [f for f in folders if f"`{f}`" not in table] == []


def test_glossary_names_places_that_exist():
    page = (ROOT / "docs" / "glossary.md").read_text()
    bases = {
        "hw/sordino_hw": ("spec", "gateware", "ecp5_pnr"),
        "sim/sordino_sim": ("golden", "timing", "rtl"),
        "compiler/sordino_compiler": ("schedule", "emit"),
    }
    places = {folder: base for base, folders in bases.items() for folder in folders}
    named = re.findall(rf"`(({'|'.join(places)})(?:/[\w./]+)?)`", page)
    assert len(named) > 40
    assert [place for place, folder in named if not (ROOT / places[folder] / place).exists()] == []


def test_readme_has_the_figures_of_the_demo():
    """The table of README.md, by the timing model, which the demo holds to the RTL."""
    from rich.progress import Progress

    from sordino.experiments.demo import DENSE_IMAGES, Demo
    from sordino.runtime.accelerator import Accelerator

    rows = {cells[0]: cells[1:] for line in (ROOT / "README.md").read_text().splitlines() if len(cells := line.split(" | ")) == 3}
    demo = Demo("ulx3s-85f", 16, 0, Progress(disable=True))
    cycles = []
    for column, trained in enumerate(demo._networks()):
        network = demo._build("", trained)
        accelerators = [Accelerator(program, "timing") for program in (network.program, network.dense)]
        accelerators[0](demo.x[demo.chosen]), accelerators[1](demo.x[demo.chosen][:DENSE_IMAGES])
        stats, dense = (a.stats for a in accelerators)
        cycles.append(stats.total.cycles)
        expected = {
            "activation density": f"{stats.total.density:.1%}",
            "non-zero activations an inference": f"{stats.nonzero_activations:,.0f}",
            "cycles an inference, on the RTL": f"{cycles[-1]:,.0f}",
            f"speed-up over our own dense mode ({dense.total.cycles:,.0f} cycles)": f"{dense.total.cycles / cycles[-1]:.2f} x",
            "speed-up over the plain network": f"{cycles[0] / cycles[-1]:.2f} x",
            "η, part of the non-zero-MAC roofline": f"{stats.total.eta:.3f}",
        }
        found = {name: rows[f"| {name}"][column].strip(" |").replace(" %", "%") for name in expected}
        assert found == expected
