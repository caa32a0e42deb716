"""A file is replaced whole or not at all."""

import os
import stat

import pytest

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
    with pytest.raises(InputError, match=r"^cannot write .*/a: Is a directory\.$"), replacing(tmp_path / "a", InputError):
        pass
    assert os.listdir(tmp_path) == ["a"]
