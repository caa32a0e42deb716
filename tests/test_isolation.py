"""The contract needs NumPy and safetensors alone, the models and the NumPy path of the runtime neither Amaranth nor PyTorch.

Each test runs in a process of its own, in which every other package is as if it were not installed.
"""

import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "hw" / "data" / "version2.sdn"

CONTRACT = ("numpy", "safetensors")
MODELS = (*CONTRACT, "numba", "llvmlite", "platformdirs", "threadpoolctl")

ONLY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in ALLOWED and package not in sys.stdlib_module_names and not package.startswith("sordino"):
            raise ModuleNotFoundError(f"No module named {package!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

ALL_OF_THE_CONTRACT = """
import importlib, pkgutil
import sordino_hw.spec

for module in pkgutil.iter_modules(sordino_hw.spec.__path__):
    importlib.import_module(f"sordino_hw.spec.{module.name}")

from sordino_hw.spec.program import Program
p = Program.load(FILE)
assert p.arch.name == "tiny" and p.input_shapes == [(2, 4, 4)] and p.output_shapes == [(3,)]
assert [x.mapping for x in p.layers] == ["2 groups x 1 slice"] * 3 and set(p.meta) == {"name", "dense", "reuse", "fold"}
"""

INPUTS = """
import numpy as np
x = np.array([
    [[[83, -4, 19, 79], [-49, 91, 18, 83], [49, 25, 62, 41], [70, 1, 30, 28]],
     [[50, 36, 116, 65], [3, -19, 21, -3], [7, 41, 90, 86], [-52, 93, 62, 122]]],
    [[[96, -46, -50, -7], [116, 21, 75, -6], [125, -2, 104, 37], [-12, 83, -12, 63]],
     [[10, 26, -51, -7], [86, 14, 127, 109], [32, -24, 92, 65], [-22, 95, 91, 117]]],
], np.int16)
expected = [[-39, -97, -78], [-95, -92, -75]]  # of the Sordino that compiled the file
"""

GOLDEN_AND_TIMING = (
    INPUTS
    + """
from sordino_hw.spec.program import Program
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing
p = Program.load(FILE)
for model in (Golden, Timing):
    result = model(p).run({"input": x})
    assert result.outputs["4"].reshape(2, 3).tolist() == expected
assert result.records[:, :, 0, :6].sum((1, 2)).tolist() == [379, 381]
"""
)

RUNTIME = (
    INPUTS
    + """
from sordino.runtime.accelerator import Accelerator, load
program = load(FILE)
scale = program.tensors["input"].scale
for backend in ("golden", "timing"):
    a = Accelerator(program, backend)
    assert a.integers(x).reshape(2, 3).tolist() == expected
    y = a((x * scale).astype(np.float32))
    assert y.shape == (2, 3) and np.array_equal(y, np.array(expected, np.float32) * np.float32(program.tensors["4"].scale))
assert a.stats.cycles.tolist() == [379, 381]
assert "torch" not in sys.modules
"""
)


@pytest.mark.parametrize(
    ("allowed", "code"),
    [(CONTRACT, ALL_OF_THE_CONTRACT), (MODELS, GOLDEN_AND_TIMING), (MODELS, RUNTIME)],
    ids=["contract", "models", "runtime"],
)
def test_it_works_without_other_packages(allowed, code):
    script = f"ALLOWED = {allowed!r}\nFILE = {str(DATA)!r}\n{ONLY}\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_other_packages_are_absent():
    script = f"ALLOWED = ()\n{ONLY}\nimport torch"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode and "No module named 'torch'" in done.stderr
