"""A file is replaced whole or not at all."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing


def test_success_replaces_the_file_with_the_usual_permissions(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    usual = tmp_path / "usual"
    usual.touch()
    with replacing(path, InputError) as temporary:
        temporary.write_text("new")
        temporary.chmod(0o600)
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "usual"]


def test_failure_keeps_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, InputError) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_missing_folder(tmp_path):
    with (
        pytest.raises(
            InputError,
            match=r"^cannot write .*/no/a\.txt: No such file or directory\. Choose a folder that exists and is writable\.$",
        ),
        replacing(tmp_path / "no" / "a.txt", InputError),
    ):
        pass


def test_folder_in_the_way(tmp_path):
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(InputError, match=r"^cannot write .*/a: Is a directory\. Name a file in it\.$"),
        replacing(tmp_path / "a", InputError),
    ):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_of_an_existing_file_stay(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    with replacing(path, InputError) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_stays(tmp_path, exists):
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    with replacing(link, InputError) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"
    assert os.listdir(target.parent) == ["target"]


def test_a_fifo_is_written_in_place(tmp_path):
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    with replacing(fifo, InputError) as temporary:
        temporary.write_text("through")
    reader.join(10)
    assert read == ["through"] and stat.S_ISFIFO(fifo.stat().st_mode)


def test_standard_output_is_written_in_place():
    """As root, a replaced /dev/stdout would be gone for the whole system."""
    code = (
        "from sordino_hw.spec.errors import InputError; from sordino_hw.spec.files import replacing\n"
        "with replacing('/dev/stdout', InputError) as f: f.write_text('printed')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "printed"
    assert os.path.islink("/dev/stdout")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_device():
    message = r"^cannot write /dev/full: No space left on device\. Free space there, or choose a folder on another disk\.$"
    with pytest.raises(InputError, match=message), replacing("/dev/full", InputError) as temporary:
        temporary.write_text("x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("writer", ["text", "safetensors"])
def test_disk_that_takes_no_more(tmp_path, writer):
    """A limit on file sizes stands for a full disk: both fail in the middle of the file."""
    path = tmp_path / "a"
    path.write_text("old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with (
            pytest.raises(InputError, match=r"^cannot write .*/a: File too large\. Raise the limit .*\.$"),
            replacing(path, InputError) as f,
        ):
            if writer == "text":
                f.write_text("x" * (1 << 18))
            else:
                save_file({"a": np.zeros(1 << 18, np.uint8)}, f)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_many_writers_of_one_file(tmp_path):
    path = tmp_path / "a"

    def write(k: int):
        with replacing(path, InputError) as temporary:
            temporary.write_text(f"{k} " * 1000)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(120)))
    words = set(path.read_text().split())
    assert len(words) == 1 and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a" * 300, r"File name too long\. Choose a shorter name\."), ("a\0b", "embedded null byte")],
    ids=["long", "null byte"],
)
def test_names_that_no_file_can_have(tmp_path, name, message):
    with pytest.raises(InputError, match=rf"(?s)^cannot write .*: {message}"), replacing(tmp_path / name, InputError):
        pass
    assert os.listdir(tmp_path) == []
