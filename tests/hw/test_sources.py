"""What determines a cached build: the modules that it imports, and what they do."""

import subprocess
import sys
from pathlib import Path

import sordino_hw
from sordino_hw.spec.sources import code_digest, import_closure

ROOT = Path(sordino_hw.__file__).parent


def test_closure_is_what_python_imports():
    code = (  # `archfile` is imported where a file is named
        "import sys, sordino_hw.gateware.generate, sordino_hw.gateware.top, sordino_hw.spec.archfile\n"
        "print(*sorted(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'sordino_hw'))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(map(str, import_closure(ROOT, "sordino_hw.gateware.generate"))) == loaded
    assert not [name for name in loaded if "/fpga/" in name or "/ecp5_pnr/" in name]


def test_closure_of_a_small_package(tmp_path):
    root = tmp_path / "pack"
    files = {
        "__init__": "",
        "a": "from . import b\nimport os",
        "b": "def f():\n    from .sub.c import x",
        "sub/__init__": "",
        "sub/c": "from ..d import y",
        "d": "import pack.a",
        "other": "import pack.a",
    }
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {path.relative_to(root).as_posix() for path in import_closure(root, "pack.a")}
    assert found == {"__init__.py", "a.py", "b.py", "sub/__init__.py", "sub/c.py", "d.py"}


def test_digest_is_of_what_sources_do(tmp_path):
    path = tmp_path / "a.py"

    def digest(text):
        path.write_text(text)
        return code_digest([path])

    plain = digest("X = 1\ndef f(x):\n    return x\n")
    assert digest('"""Words."""\nX = 1  # why\n"""More words."""\n\n\ndef f(x):\n    """Even here."""\n    return x\n') == plain
    assert digest("X = 2\ndef f(x):\n    return x\n") != plain
    assert digest('X = 1\ndef f(x):\n    return "x"\n') != plain
