"""`ArchConfig`: documents and hashes that stay as they are when fields are added or renamed."""

import dataclasses
import importlib
import importlib.metadata
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sordino_hw.spec import program as program_module
from sordino_hw.spec.arch import PRESETS, ArchConfig
from sordino_hw.spec.archfile import arch_of, to_toml
from sordino_hw.spec.errors import ArchError, BinaryError
from sordino_hw.spec.program import Program

OLD = Path(__file__).parent / "data" / "version2.sdn"

HASHES = {"ulx3s-85f": 0x70CB5510, "ecp5-25f": 0x7EBF601E, "icebreaker": 0xDB356B90}
"""Hashes of the presets that builds have in their HASH register. A preset that means to change has a new one."""


@dataclass(frozen=True)
class Grown(ArchConfig):
    """An architecture with a field that came later."""

    burst: int = field(default=1, metadata={"since": "99.2"})
    """Words of a burst of external memory."""


MANTISSA = field(default="four", metadata={"former": ("mantissa_bits", {4: "four", 6: "six"})})

Renamed = dataclasses.make_dataclass(
    "Renamed",
    [
        (f.name, f.type, field(default=f.default, metadata=f.metadata))
        for f in dataclasses.fields(ArchConfig)
        if f.name != "mantissa_bits"
    ]
    + [("mantissa", str, MANTISSA)],
    namespace={name: vars(ArchConfig)[name] for name in ("to_dict", "from_dict", "values_of", "hash", "_later")},
    frozen=True,
)
"""An architecture in which `mantissa_bits` became `mantissa`, a text."""


def values(arch: ArchConfig) -> dict:
    return {f.name: getattr(arch, f.name) for f in dataclasses.fields(ArchConfig)}


@pytest.mark.parametrize("arch", PRESETS.values(), ids=list(PRESETS))
def test_a_hash_is_as_it_was(arch):
    assert arch.hash == HASHES[arch.name]
    assert ArchConfig.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


def test_the_first_fields_are_all_written_and_all_needed():
    d = PRESETS["ulx3s-85f"].to_dict()
    assert "needs" not in d and len(d) >= 22
    for name in d:
        with pytest.raises(ArchError, match=f"^architecture: field '{name}' is missing$"):
            ArchConfig.from_dict({k: v for k, v in d.items() if k != name})
    with pytest.raises(ArchError, match=r"^architecture: unknown field 'burst'; known fields are act_depth, "):
        ArchConfig.from_dict({**d, "burst": 2})


def test_a_new_field_changes_nothing_while_it_has_its_default():
    old = PRESETS["ulx3s-85f"]
    new = Grown(**values(old))
    assert new.hash == old.hash and new.to_dict() == old.to_dict()
    assert Grown.from_dict(old.to_dict()) == new
    other = new.replace(burst=8)
    assert other.hash != old.hash and other.to_dict()["burst"] == 8 and Grown.from_dict(other.to_dict()) == other
    assert "burst: 1 / 8" in new.difference(other)
    with pytest.raises(ArchError, match="burst must be a positive integer, not burst=0"):
        new.replace(burst=0)


def test_an_older_sordino_says_which_one_is_needed():
    document = Grown(burst=8).to_dict()
    assert document["needs"] == "99.2"
    mine = importlib.metadata.version("sordino")
    with pytest.raises(
        ArchError,
        match=rf"^architecture: unknown field 'burst'\. It needs Sordino 99\.2 or newer, and this is {mine}: update Sordino$",
    ):
        ArchConfig.from_dict(document)


def test_the_page_shows_a_new_field(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    page = importlib.import_module("contract_pages").architecture_page
    assert "`burst`" not in page()
    assert "| `burst` | 1 | 1 | 1 | 1 | Words of a burst of external memory. |" in page(Grown)
    assert all(f"| `{f.name}` | {f.default} |" in page(Grown) for f in dataclasses.fields(ArchConfig) if f.name != "name")


def test_files_of_before_load_with_a_new_field(monkeypatch, tmp_path):
    """The .sdn of an older Sordino has the same hash with the field, and one that is saved has it only where it is not the default."""
    before = Program.load(OLD)
    monkeypatch.setattr(program_module, "ArchConfig", Grown)
    after = Program.load(OLD)
    assert isinstance(after.arch, Grown) and after.arch.burst == 1 and after.arch.hash == before.arch.hash
    after.save(tmp_path / "default.sdn")
    after.arch = after.arch.replace(burst=8)
    after.save(tmp_path / "eight.sdn")
    assert Program.load(tmp_path / "eight.sdn").arch == after.arch
    monkeypatch.undo()
    assert Program.load(tmp_path / "default.sdn").arch == before.arch
    with pytest.raises(BinaryError, match=r"unknown field 'burst'\. It needs Sordino 99\.2 or newer"):
        Program.load(tmp_path / "eight.sdn")


def test_the_profile_is_read_as_pipelining():
    for arch, pipelining in ((PRESETS["icebreaker"], 1), (PRESETS["ulx3s-85f"], 2)):
        d = {k: v for k, v in arch.to_dict().items() if k != "profile"}
        assert ArchConfig.from_dict({**d, "pipelining": pipelining}) == arch
    with pytest.raises(ArchError, match=r"^architecture: pipelining is 3; it must be one of 1, 2$"):
        ArchConfig.from_dict({**d, "pipelining": 3})


def test_files_of_architectures_follow_the_same_rules(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(to_toml(PRESETS["icebreaker"]).replace('profile = "small"', "pipelining = 1"))
    assert arch_of(str(path)) == PRESETS["icebreaker"]
    path.write_text('base = "icebreaker"\nburst = 8\nneeds = "99.2"\n')
    with pytest.raises(ArchError, match=r"a\.toml: architecture: unknown field 'burst'\. It needs Sordino 99\.2 or newer"):
        arch_of(str(path))
    path.write_text("base = [1]\n")
    with pytest.raises(ArchError, match=r"base \[1\] is no preset; the presets are ulx3s-85f"):
        arch_of(str(path))


def test_a_renamed_field_is_read_by_its_former_name_and_keeps_the_hash():
    for bits, text in ((4, "four"), (6, "six")):
        old = ArchConfig(mantissa_bits=bits)
        new = Renamed.from_dict(old.to_dict())
        assert new.mantissa == text and new.hash == old.hash
        assert new.to_dict()["mantissa"] == text and Renamed.from_dict(new.to_dict()) == new
    with pytest.raises(ArchError, match=r"^architecture: mantissa_bits is 5; it must be one of 4, 6$"):
        Renamed.from_dict(ArchConfig(mantissa_bits=5).to_dict())
    with pytest.raises(ArchError, match=r"^architecture: unknown field 'mantissa_bits'; "):
        Renamed.from_dict({**ArchConfig().to_dict(), "mantissa": "four"})
