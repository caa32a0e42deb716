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


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_index_names_every_page(folder):
    index = (ROOT / folder / "README.md").read_text()
    assert [
        page.name for page in sorted((ROOT / folder).glob("*.md")) if page.name != "README.md" and f"({page.name})" not in index
    ] == []


def test_tutorial_shows_its_example():
    example = (ROOT / "examples" / "own_network.py").read_text()
    blocks = PYTHON.findall((ROOT / "docs" / "tutorial.md").read_text())
    assert blocks
    assert [block for block in blocks if block.strip() not in example] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not broken
