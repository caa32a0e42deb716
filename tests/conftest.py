"""The seed of a run, and which of the slow tests it takes.

A plain run is reproducible: seed 0, no slow test. CI runs with the seed of the commit and a rotating share of the
slow tests; the header of a run says which, and the same `SORDINO_SEED` and `--share` repeat it.
"""

import os
import signal
import zlib

# Before torch is imported, and for the programs that tests start: its threads wait for each other by spinning, and where
# they are more than the idle cores (xdist, a busy machine) small networks train ten times slower than on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it that starts the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

SEED = int(os.environ.get("SORDINO_SEED", "0"))

LONG = (
    *("test_equivalence", "test_core", "test_raw_operations", "test_fuzz", "test_cocotb"),
    *("test_docs", "test_howtos", "test_examples", "test_cli_train"),
)
"""Files that take minutes, whatever the number of their tests. Files are dealt to the workers whole, so these start first, and the
short ones fill up the end."""

hypothesis.settings.register_profile("sordino", deadline=None, print_blob=True, derandomize="SORDINO_SEED" not in os.environ)
hypothesis.settings.load_profile("sordino")


def _share(text: str) -> tuple[int, int]:
    try:
        part, parts = (int(n) for n in text.split("/"))
    except ValueError:
        raise pytest.UsageError(f"--share takes K/N, two integers, not {text!r}") from None
    if not 0 <= part < parts:
        raise pytest.UsageError(f"--share takes K/N with 0 <= K < N, not {text!r}")
    return part, parts


def pytest_addoption(parser):
    group = parser.getgroup("sordino")
    group.addoption("--slow", action="store_true", help="run the slow tests too")
    group.addoption("--share", metavar="K/N", help="run the K-th of N shares of the slow tests too, 0 <= K < N")


def pytest_configure(config):
    if share := config.getoption("--share"):
        _share(share)


def pytest_report_header(config):
    slow = "all" if _wants_slow(config) else f"share {config.getoption('--share')}" if config.getoption("--share") else "none"
    return f"sordino: SORDINO_SEED={SEED}, slow tests: {slow}"


def _wants_slow(config) -> bool:
    return config.getoption("--slow") or "slow" in config.getoption("markexpr")


def pytest_collection_modifyitems(config, items):
    """Puts long files first. Deselects slow tests that were not asked for: neither by --slow, nor by -m, nor by name, nor by --share."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    if _wants_slow(config) or any("::" in arg for arg in config.args):
        return
    share = config.getoption("--share")
    part, parts = _share(share) if share else (0, 0)

    def taken(item) -> bool:
        if item.get_closest_marker("slow") is None:
            return True
        return parts > 0 and zlib.crc32(item.nodeid.encode()) % parts == part

    dropped = [item for item in items if not taken(item)]
    items[:] = [item for item in items if taken(item)]
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture
def seed(request) -> list[int]:
    """Seed of this test, for `numpy.random.default_rng`: differs from test to test, follows `SORDINO_SEED`."""
    return [SEED, zlib.crc32(request.node.nodeid.encode())]


@pytest.fixture
def rng(seed) -> np.random.Generator:
    """Random numbers of this test; see `seed`."""
    return np.random.default_rng(seed)
