"""Generated pages: what is in `docs/` is what the tables say now."""

import subprocess
import sys
from pathlib import Path

from sordino_hw.spec import isa
from sordino_hw.spec.isa_page import isa_page

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_fresh():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_isa_page_names_every_definition():
    page = isa_page()
    names = [*isa.REGISTERS, *isa.CSR, *(e.name for kind in (isa.Opcode, isa.Flag, isa.Mode, isa.Trap) for e in kind)]
    names += [c.name.lower() for c in isa.Cause]
    missing = [name for name in names if f"| `{name}` |" not in page]
    assert not missing
    for text in (*isa.OPCODE_DOC.values(), *isa.TRAP_DOC.values(), *isa.CSR_DOC.values(), *(r.doc for r in isa.REGISTERS.values())):
        assert text in page
