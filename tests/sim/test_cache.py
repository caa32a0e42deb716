"""The cache of builds is private: what lies in it is loaded and run."""

import os
import stat
import time

import pytest

from sordino_hw.spec.errors import ToolError
from sordino_sim import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path / "mine"))
    return cache.cache_dir("rtl")


def entry(folder, name="a.so", size=1, age=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_folder_is_made_private(folder):
    with cache.locked(folder / "x.lock"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "x.lock").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_could_write_becomes_private(folder, mode):
    """Such as a umask of 002 leaves it."""
    path = entry(folder)
    folder.chmod(mode)
    assert cache.is_trusted(path)
    assert not folder.stat().st_mode & 0o022


def test_a_parent_that_others_can_write(folder):
    path = entry(folder)
    folder.parent.chmod(0o777)
    with pytest.raises(ToolError, match=r"^The folder .*/mine is not safe"):
        cache.is_trusted(path)
    folder.parent.chmod(0o1777)  # as /tmp is
    assert cache.is_trusted(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else(folder, monkeypatch):
    path = entry(folder)
    os.chown(folder, 12345, -1)
    with pytest.raises(ToolError, match=r"^The folder .* it belongs to somebody else\."):
        cache.is_trusted(path)
    os.chown(folder, 0, -1)
    os.chown(path, 12345, -1)
    assert not cache.is_trusted(path)


def test_files_that_others_can_write_or_links_are_not_trusted(folder):
    path = entry(folder)
    assert cache.is_trusted(path) and not cache.is_trusted(folder / "b.so")
    (folder / "link.so").symlink_to(path)
    assert not cache.is_trusted(folder / "link.so")
    path.chmod(0o666)
    assert not cache.is_trusted(path)


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.write_text("no folder at all, which holds for root, too")
    monkeypatch.delenv("SORDINO_CACHE", raising=False)
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(home / ".cache" / name))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.cache_dir("rtl")
    assert folder == tmp_path / f"sordino-{os.geteuid()}" / "rtl"
    with cache.locked(folder / "x.lock"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_prune_takes_the_old_and_the_unused(folder):
    old, unused, used = entry(folder, "old.so", 10, 100), entry(folder, "unused.so", 10, 50), entry(folder, "used.so", 10, 60)
    other = entry(folder, "old.lock", 10, 1000)
    cache.touch(used)
    assert cache.prune(folder, "*.so", max_age=80, max_bytes=100) == [old]
    assert cache.prune(folder, "*.so", max_age=80, max_bytes=15) == [unused]
    assert used.exists() and other.exists()
