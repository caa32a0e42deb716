"""Mutated `.sdn` files: each is refused in words or runs, within the budget; a run is the same on the models and on the RTL.

`benchmarks/fuzz.py` runs as many as one likes.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mutations import MUTATIONS, SECONDS, Corpus, against_rtl, change_arch, journey
from random_layers import ARCHS

ROOT = Path(__file__).parent.parent.parent


def test_every_mutation_is_refused_or_runs(tmp_path, seed):
    """300 files; some are refused at each stage, and some run. Only the first pays for what numba compiles."""
    corpus = Corpus(tmp_path, 6)
    journey(*corpus.mutated(np.random.default_rng(0)))
    stages: Counter[str] = Counter()
    for i in range(300):
        path, inputs = corpus.mutated(np.random.default_rng([*seed, i]))
        outcome = journey(path, inputs, page=i % 100 == 1)
        assert outcome.seconds < SECONDS
        stages[outcome.stage] += 1
    assert stages["load"] > 100 and stages["ran"] > 30, stages


def test_mutations_change_what_they_say(tmp_path, rng):
    """Each kind makes files that differ from their seed, and that pass the checksum."""
    corpus = Corpus(tmp_path, 2)
    for mutation in dict.fromkeys(MUTATIONS):
        outcomes = []
        for _ in range(8):
            path, inputs = corpus.mutated(rng, [mutation])
            outcomes.append(journey(path, inputs))
        assert not any("checksum" in outcome.text for outcome in outcomes), mutation
        assert len({outcome.text for outcome in outcomes}) > 1 or mutation is not change_arch


@pytest.mark.slow
def test_rtl_agrees(tmp_path, seed):
    """100 files on the RTL: values and counters equal those of the models, or both refuse."""
    corpus = Corpus(tmp_path, 8, (ARCHS[4],))
    seen: Counter[str] = Counter()
    for i in range(100):
        path, inputs = corpus.mutated(np.random.default_rng([*seed, i]), [m for m in MUTATIONS if m is not change_arch])
        seen[against_rtl(path, inputs)] += 1
    assert min(seen["equal"], seen["both refuse"]) > 5, seen


@pytest.mark.slow
def test_no_index_is_out_of_bounds(tmp_path):
    """Every index of the compiled loops checked, on 500 files. numba's cache does not know which code has checks."""
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--count", "500", "--seed", "1"]
    done = subprocess.run(
        command,
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
