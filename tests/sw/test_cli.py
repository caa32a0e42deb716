"""The command line: what each command writes, its figures, and how it refuses."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

import sordino as sd
from sordino.cli import app
from sordino.experiments.demo import NETWORKS
from sordino.experiments.tasks import load_checkpoint
from sordino.progress import lines
from sordino.report import render
from sordino.report.jsonfile import VERSION
from sordino.report.schema import validate
from sordino_hw.spec.arch import preset

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Linear(8 * 25, 3)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).flatten(1))

class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Conv2d(2, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 3, stride=4)

    def forward(self, x):
        return self.b(self.relu(self.a(x)))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)

    def forward(self, x, y):
        return self.conv(x) + self.conv(y)

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return self.b(torch.cumsum(self.a(x), 1))

def number():
    return 3

def fails():
    raise KeyError("missing weights")
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test runs in an empty folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def own(here):
    (here / "own.py").write_text(OWN)
    np.save("x.npy", np.random.default_rng(0).random((6, 2, 5, 5)).astype(np.float32))
    return "own.py:Net"


@pytest.fixture
def program(digits_program):
    digits_program.save("digits.sdn")
    return "digits.sdn"


@pytest.fixture
def images(digits):
    np.save("images.npy", digits.test[0][:5].numpy())
    return "images.npy"


def sordino(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def works(*arguments):
    result = sordino(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refuses(text, *arguments):
    """One paragraph on standard error that matches, exit code 2, no traceback, no new file."""
    before = sorted(Path().iterdir())
    result = sordino(*arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit | None)
    *before_it, paragraph = result.stderr.splitlines()
    assert re.fullmatch(rf"sordino: {text}", paragraph) and all(line.startswith("[") for line in before_it), result.stderr
    assert sorted(Path().iterdir()) == before


def figures(path, command):
    text = Path(path).read_text()
    validate(text, command)
    assert "<h1>" in render(json.loads(text))
    document = json.loads(text)
    assert document.pop("schema") == VERSION
    assert document.pop("command") == command
    assert set(document.pop("versions")) == {"sordino", "torch", "numpy", "amaranth", "verilator", "python"}
    return document


def misuse(*arguments):
    """What standard error says about arguments that do not exist; exit code 2."""
    result = sordino(*arguments)
    assert result.exit_code == 2 and "Usage: sordino" in result.stderr
    return result.stderr


COMMANDS = [
    *("demo", "train", "check", "compile", "run", "disasm", "bench", "bench layer", "bench network", "bench sim", "bench fpga"),
    *("report", "study", "arch", "arch list", "arch show", "arch check", "generate", "doctor", "completion"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert "Usage: sordino" in works(*command.split(), "--help")


def test_no_command_shows_the_list():
    output = sordino().output
    for command in COMMANDS:
        assert command.split()[0] in output


# -- train -----------------------------------------------------------------------------------------------------------


def test_train_then_compile_then_run(digits):
    output = works("train", "digits", "-m", "relu", "--epochs", 1, "-o", "plain.safetensors", "--json", "train.json")
    assert "Checkpoint: plain.safetensors" in output
    f = figures("train.json", "train")
    assert set(f) == {
        "task", "method", "options", "seed", "validation_accuracy", "test_accuracy", "density", "nonzero", "history", "checkpoint",
    }  # fmt: skip
    assert f["method"] == "relu" and len(f["history"]) == 1
    assert set(f["history"][0]) == {
        "epoch", "loss", "penalty", "score", "density", "events", "task_loss", "lr", "densities", "watched", "seconds",
    }  # fmt: skip
    works("train", "digits", "-m", "star", "--from", "plain.safetensors", "--epochs", 1, "--quantile", 0.4)
    trained = load_checkpoint("digits-star.safetensors")
    assert trained.options == {"strength": 1e-5, "quantile": 0.4} and len(trained.history) == 2
    assert sd.train.accuracy(trained.model, digits.test) == trained.test_accuracy
    works("compile", "digits-star.safetensors", "-o", "star.sdn")
    np.save("test.npy", digits.test[0].numpy())
    works("run", "star.sdn", "test.npy", "-o", "y.npy")
    y = np.load("y.npy")
    assert y.shape == (450, 10) and (y.argmax(1) == digits.test[1].numpy()).mean() > trained.test_accuracy - 0.02


def test_train_with_a_method_for_each_layer(digits):
    methods = ("-m", "relu1=wta", "-m", "relu3=none", "-m", "*=star")
    works("train", "digits", *methods, "--epochs", 1, "--quantile", 0.4, "--json", "train.json", "--metrics", "run")
    assert sorted(p.name for p in Path("run").iterdir()) == ["plain", "sparse"] and Path("run/sparse/metrics.csv").exists()
    document = json.loads(Path("train.json").read_text())
    assert document["method"] == {"relu1": "wta", "relu3": None, "*": "star"}
    assert document["options"] == {"relu1": {}, "relu3": {}, "*": {"strength": 1e-5, "quantile": 0.4}}
    trained = load_checkpoint("digits-mixed.safetensors")
    assert [type(m).__name__ for _, m in sd.nn.sites(trained.model)] == ["WTA", "STAR", "ReLU"]
    assert sd.train.accuracy(trained.model, digits.test) == trained.test_accuracy
    works("compile", "digits-mixed.safetensors", "-o", "mixed.sdn")


def test_train_refuses(here):
    refuses(r"--method star: several methods are given as PATTERN=METHOD, .*", "train", "-m", "relu1=l1", "-m", "star")
    refuses(r"--method a=star: 'a' has a method already\.", "train", "-m", "a=l1", "-m", "a=star")
    refuses(r"unknown sparsity method 'l3': the methods are .*", "train", "-m", "relu1=l3")
    refuses(r"unknown task 'mnist': the example tasks are digits\. .*", "train", "mnist")
    refuses(r"unknown sparsity method 'l3': the methods are .*", "train", "digits", "-m", "l3")
    refuses(r"cannot write no/x\.safetensors: the folder no does not exist\.", "train", "-o", "no/x.safetensors")
    refuses(r"no\.safetensors: no such file\. `sordino train` makes a checkpoint\.", "train", "--from", "no.safetensors")
    save_file({"a": torch.zeros(1)}, here / "other.safetensors")
    refuses(r"other\.safetensors: holds weights, but not of `sordino train`\. .*", "train", "--from", "other.safetensors")
    refuses(r"train: the method 'relu' has no option 'strength'", "train", "-m", "relu", "--epochs", 1, "--strength", 1)


# -- check -----------------------------------------------------------------------------------------------------------


def test_check(own):
    output = works("check", own, "--example", "1,2,5,5", "--json", "check.json")
    assert "Predicted cycles" in output and "aten.conv2d" in output
    f = figures("check.json", "check")
    assert (
        set(f)
        == {"arch", "ok", "problem", "fits", "operators", "memory", "segments", "host", "predicted", "advice", "activation_memory"}
        and f["ok"]
    )
    assert [p["density"] for p in f["predicted"]] == [1.0, 0.5, 0.2, 0.1]


def test_check_of_what_cannot_be_compiled(own):
    result = sordino("check", "own.py:Odd", "-e", "1,2,5,5")
    assert result.exit_code == 2 and "not supported" in result.stdout
    assert re.search(r"sordino: aten\.cumsum 'cumsum' \(own\.py:\d+\): ", result.stderr)
    refuses(r"check: give the shape of an input, such as --example 1,3,32,32 \(batch first\)\.", "check", own)
    refuses(r"--example 1,x: not a shape such as 1,3,32,32, nor a \.npy or \.npz file\.", "check", own, "-e", "1,x")
    refuses(r"--example 1,0,5,5: sizes must be positive\.", "check", own, "-e", "1,0,5,5")


def test_check_of_what_does_not_fit(own):
    result = sordino("check", "own.py:Large", "-e", "1,2,64,64", "--json", "check.json", "--arch", "icebreaker")
    assert result.exit_code == 2 and "Verdict: it does not fit icebreaker" in result.stdout
    f = figures("check.json", "check")
    assert not f["ok"] and f["predicted"] == [] and f["advice"] is None
    assert max(x["words"] for x in f["activation_memory"]) > 512
    fits = [
        name
        for name in ("ulx3s-85f", "ecp5-25f")
        if sordino("check", "own.py:Large", "-e", "1,2,64,64", "--arch", name).exit_code == 0
    ]
    assert f["fits"] == fits


def test_check_takes_an_example_for_each_input(own):
    output = works("check", "own.py:Two", "-e", "1,2,5,5", "-e", "1,2,5,5")
    assert output.count("placeholder") == 2 and "Verdict: it fits ulx3s-85f" in output


# -- compile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_compile_a_network_of_ones_own(own, here, suffix):
    import importlib.util

    spec = importlib.util.spec_from_file_location("own_network", here / "own.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    model = module.Net().eval()
    save_file(model.state_dict(), "w.safetensors")
    torch.save(model.state_dict(), "w.pt")
    output = works("compile", own, "-w", f"w.{suffix}", "-c", "x.npy", "--json", "compile.json")
    assert "Program: Net.sdn" in output
    f = figures("compile.json", "compile")
    assert set(f) == {
        "file", "name", "arch", "dense", "random_weights", "segments", "operations", "memory", "layers", "calibration_images",
        "transfers", "activation_memory",
    }  # fmt: skip
    assert (f["file"], f["calibration_images"], f["arch"]["name"]) == ("Net.sdn", 6, "ulx3s-85f")
    x = torch.from_numpy(np.load("x.npy"))
    expected = sd.Accelerator(sd.compile(sd.quantize(model, x)))(x)
    assert torch.equal(sd.Accelerator("Net.sdn")(x), expected)


def test_weights_are_random_only_where_that_is_asked_for(own):
    refuses(
        r"compile: own\.py:Net has no trained weights\. Give them with --weights FILE .* --random-weights\.",
        "compile",
        own,
        "-c",
        "x.npy",
    )
    assert "The weights are random" in works("compile", own, "--random-weights", "-c", "x.npy", "--json", "compile.json")
    assert figures("compile.json", "compile")["random_weights"] is True
    assert sd.Program.load("Net.sdn").meta["random_weights"] is True
    assert "the weights are random" in works("disasm", "Net.sdn")
    assert "the outputs mean nothing" in works("run", "Net.sdn", "x.npy")
    refuses(r"compile: give either --weights or --random-weights, not both\.", "compile", own, "--random-weights", "-w", "w.pt")
    torch.save({}, "w.safetensors")
    refuses(r"w\.safetensors has its own weights; leave --random-weights out\.", "compile", "w.safetensors", "--random-weights")


def test_compile_refuses(own, here):
    refuses(r"compile: give typical inputs with --calibration x\.npy; .*", "compile", own, "--random-weights")
    refuses(r"unknown architecture 'zx81': the presets are .*", "compile", own, "--random-weights", "-c", "x.npy", "--arch", "zx81")
    refuses(r"no\.npy: no such file\.", "compile", own, "--random-weights", "-c", "no.npy")
    refuses(r"own: name a model as FILE\.py:NAME, .*", "compile", "own", "-c", "x.npy")
    refuses(r"no\.py: no such file\.", "compile", "no.py:Net", "-c", "x.npy")
    refuses(r"own\.py: it has no 'Nat'\. .*", "compile", "own.py:Nat", "-c", "x.npy")
    refuses(r"own\.py:number: made a int, not a torch\.nn\.Module\.", "compile", "own.py:number", "-c", "x.npy")
    refuses(r"own\.py:fails: KeyError: 'missing weights'", "compile", "own.py:fails", "-c", "x.npy")
    refuses(r"aten\.cumsum 'cumsum' \(own\.py:\d+\): .*", "compile", "own.py:Odd", "--random-weights", "-c", "x.npy")
    save_file({"a": torch.zeros(1)}, here / "a.safetensors")
    refuses(r"a\.safetensors: the weights do not fit the model\. .*", "compile", own, "-w", "a.safetensors", "-c", "x.npy")
    (here / "bad.pt").write_bytes(b"\x80\x04N.")
    refuses(r"bad\.pt: (refused|not a readable).*", "compile", own, "-w", "bad.pt", "-c", "x.npy")
    np.save("empty.npy", np.zeros((0, 2, 5, 5), np.float32))
    refuses(r"empty\.npy: the calibration set is empty\. .*", "compile", own, "--random-weights", "-c", "empty.npy")
    np.save("nan.npy", np.full((1, 2, 5, 5), np.nan, np.float32))
    refuses(r"calibration batch 0: it holds NaN or infinite values\. .*", "compile", own, "--random-weights", "-c", "nan.npy")
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    refuses(
        r"objects\.npy: not a readable \.npy or \.npz file \(.*\)\. .*", "compile", own, "--random-weights", "-c", "objects.npy"
    )
    refuses(
        r"cannot write no/n\.sdn: No such file or directory\. .*",
        "compile",
        own,
        "--random-weights",
        "-c",
        "x.npy",
        "-o",
        "no/n.sdn",
    )


# -- run -------------------------------------------------------------------------------------------------------------


def test_run_on_the_timing_model(program, images):
    output = works("run", program, images, "--backend", "timing", "--json", "run.json", "-o", "y.npy")
    assert "η" in output and "conv3" in output
    f = figures("run.json", "run")
    assert set(f) == {"file", "arch", "stats", "time", "returned"}
    assert set(f["stats"]) == {"backend", "images", "layers", "total", "densities", "nonzero", "nonzero_activations", "cycles"}
    assert set(f["stats"]["layers"][0]) == set(f["stats"]["total"]) == {
        "name", "kind", "source", "macs", "nonzero_macs", "events", "density", "cycles", "causes", "words", "skipped", "eta",
    }  # fmt: skip
    accelerator = sd.Accelerator("digits.sdn", "timing")
    assert np.array_equal(np.load("y.npy"), accelerator(np.load(images))) and accelerator.stats.to_dict() == f["stats"]


def test_run_tells_the_time_and_writes_a_timeline(program, images, digits_program):
    output = works("run", program, images, "--backend", "timing", "--trace", "trace.json", "--json", "run.json")
    assert "at 107.9 MHz (measured after place and route)" in output and "compute only" in output
    f = figures("run.json", "run")
    assert f["time"]["compute_ms"] == pytest.approx(f["stats"]["total"]["cycles"] / 107.9e3)
    slices = [e for e in json.loads(Path("trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    layers = [e for e in slices if e["tid"] == 2]
    assert sum(e["args"]["cycles"] for e in layers) == f["stats"]["cycles"][0]
    assert {e["name"] for e in layers} == {*(x.name for x in digits_program.layers), "end of segment"}
    assert sum(e["args"]["cycles"] for e in slices if e["name"].startswith("load")) == f["time"]["load_cycles"] > 0
    ends = [e["ts"] + e["dur"] for e in layers]
    assert all(later["ts"] >= end - 1e-6 for end, later in zip(ends, layers[1:], strict=False))
    for core in range(4):
        mine = [e for e in slices if e["tid"] == 10 + core]
        assert [e["args"]["cycles"] for e in mine] == [e["args"]["cycles"] for e in layers]
    other = works("run", program, images, "--backend", "timing", "--clock", "50", "--json", "-")
    assert "at 50 MHz (as given)" in other
    refuses(r"run: the golden model counts no cycles; .*", "run", program, images, "--trace", "t.json")
    refuses(r"cannot write no/t\.json: the folder no does not exist\.", "run", program, images, "--trace", "no/t.json")


def test_a_narrow_terminal_keeps_what_matters(program, images, own, monkeypatch):
    for columns in (50, 60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        for output in (works("run", program, images, "--backend", "timing"), works("check", own, "-e", "1,2,5,5")):
            assert max(map(len, output.splitlines())) <= columns
        output = works("run", program, images, "--backend", "timing")
        assert "conv3" in output and "cycles" in output and "η" in output


def test_long_work_prints_lines_where_there_is_no_terminal(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("sordino.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with lines(Console(file=out)) as bar:
        quick = bar.add_task("quick", total=2, note="")
        bar.update(quick, completed=1)
        bar.update(quick, completed=2)
        now[0] += 5
        slow = bar.add_task("train", total=3, note="")
        for step in range(1, 4):
            now[0] += 2
            bar.update(slow, completed=step, note=f"score 0.{step}")
            bar.update(slow, completed=step, note=f"score 0.{step}")
    assert out.getvalue().splitlines() == [
        "[5 s] train: 0/3",
        "[7 s] train: 1/3 score 0.1",
        "[9 s] train: 2/3 score 0.2",
        "[11 s] train: 3/3 score 0.3",
    ]


def test_a_model_that_cannot_be_traced_is_one_paragraph(own, capfd):
    refuses(r"Net does not take the example .*: layer '.*' \(Linear.*shapes cannot be multiplied.*", "check", own, "-e", "1,2,9,9")
    assert "Traceback" not in capfd.readouterr().err


def test_the_name_of_a_model_file_hides_no_module(here):
    (here / "json.py").write_text(OWN)
    assert "Verdict" in works("check", "json.py:Net", "-e", "1,2,5,5", "--json", "check.json")


@pytest.mark.slow
def test_transfers_take_the_cycles_of_the_rtl(digits_program):
    from sordino.runtime.speed import transfers
    from sordino_hw.spec.isa import Region
    from sordino_sim.rtl.images import segment_images
    from sordino_sim.rtl.machine import Rtl

    told = transfers(digits_program)
    with Rtl(digits_program.arch, quiet=True) as rtl:
        begin = rtl.ticks
        for (region, core), image in segment_images(digits_program.segments[0]).items():
            rtl.write(region, image, core=core)
        assert rtl.ticks - begin == pytest.approx(told.loads[0], rel=0.01)
        addresses = digits_program.addresses("x").reshape(-1)
        begin = rtl.ticks
        rtl.write(Region.ACT, np.zeros((len(addresses), 32), np.int16), addresses)
        assert rtl.ticks - begin == pytest.approx(told.write, rel=0.02)
        begin = rtl.ticks
        rtl.read(Region.ACT, digits_program.addresses("fc").reshape(-1))
        assert rtl.ticks - begin == pytest.approx(told.read, rel=0.02)


def test_figures_on_standard_output(program, images):
    result = sordino("run", program, images, "--json", "-")
    assert result.exit_code == 0 and json.loads(result.stdout)["command"] == "run"
    assert "conv2" in result.stderr


def test_a_picture_is_no_array(program):
    Image.new("L", (8, 8)).save("digit.png")
    refuses(r"digit\.png: an image file; arrays are read from \.npy or \.npz, .*", "run", program, "digit.png")


def test_run_on_integers_and_npz(program, images):
    accelerator = sd.Accelerator(program)
    x = accelerator.quantise("x", np.load(images))
    np.savez("x.npz", x=x)
    assert "for cycles use the back end" in works("run", program, "x.npz", "--integers", "-o", "y.npz")
    with np.load("y.npz") as y:
        assert np.array_equal(y["fc"], accelerator.integers(x))


def test_run_refuses(program, images, here, monkeypatch):
    refuses(r"no\.sdn: no such file\. `sordino compile` makes one\.", "run", "no.sdn", images)
    assert "'fpga' is not one of 'golden', 'timing', 'verilator'" in misuse("run", program, images, "--backend", "fpga")
    refuses(r"the program is compiled for another architecture: .*", "run", program, images, "--arch", "icebreaker")
    whole = (here / program).read_bytes()
    (here / "short.sdn").write_bytes(whole[: len(whole) // 2])
    refuses(r"short\.sdn: not a readable \.sdn file, truncated or corrupt \(.*\)\. .*", "run", "short.sdn", images)
    (here / "flipped.sdn").write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    refuses(r"flipped\.sdn: the checksum does not match: .*", "run", "flipped.sdn", images)
    np.save("wide.npy", np.zeros((1, 1, 8, 9), np.float32))
    refuses(r"input 'x' has shape \(1, 1, 8, 9\); .*", "run", program, "wide.npy")
    np.save("bytes.npy", np.zeros((1, 1, 8, 8), np.uint8))
    refuses(r"input 'x' has dtype uint8; .*", "run", program, "bytes.npy")
    np.save("nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    refuses(r"input 'x' has 64 values that are NaN or infinite, .*", "run", program, "nan.npy", "--json", "x.json")
    (here / "cut.npy").write_bytes((here / images).read_bytes()[:60])
    refuses(r"cut\.npy: not a readable \.npy or \.npz file \(.*\)\. .*", "run", program, "cut.npy")
    np.savez_compressed("bomb.npz", x=np.zeros((1, 1 << 16), np.float32))
    monkeypatch.setattr("sordino.cli.models.MAX_INFLATED", 1 << 18)
    refuses(
        r"bomb\.npz: its arrays have 262,\d+ bytes uncompressed, at most 262,144 are read at once\. .*", "run", program, "bomb.npz"
    )
    refuses(r"cannot write no/y\.npy: No such file or directory\. .*", "run", program, images, "-o", "no/y.npy")


# -- arch, generate -----------------------------------------------------------------------------------------------------


def test_architectures_from_files(own, here):
    assert "ulx3s-85f" in works("arch", "list", "--json", "list.json")
    assert [a["clock_mhz"] for a in figures("list.json", "arch list")["architectures"]] == [107.9, 116.5, 28.6]
    toml = works("arch", "show", "ulx3s-85f,act_depth=4096", "--json", "show.json")
    (here / "mine.toml").write_text(toml)
    (here / "short.toml").write_text('base = "ulx3s-85f"\nact_depth = 4096\n')
    (here / "mine.json").write_text(json.dumps(figures("show.json", "arch show")["arch"]))
    wanted = sd.PRESETS["ulx3s-85f"].replace(act_depth=4096)
    for text in ("mine.toml", "short.toml", "mine.json", "ulx3s-85f,act_depth=4096"):
        assert preset(text).hash == wanted.hash
        assert "is valid: as ulx3s-85f, but act_depth 4096 (there 1536)." in works("arch", "check", text)
    output = works("check", own, "-e", "1,2,5,5", "--arch", "short.toml", "--json", "check.json")
    assert "No clock was measured" in output
    f = figures("check.json", "check")
    assert f["arch"]["name"] == "short" and f["predicted"][0]["time"]["compute_ms"] is None


def test_architectures_are_refused(here):
    refuses(
        r"architecture ulx3s-85f,act_depht=1: unknown field 'act_depht'; did you mean 'act_depth'\?",
        "arch",
        "check",
        "ulx3s-85f,act_depht=1",
    )
    refuses(r"unknown architecture 'ulx3s': did you mean 'ulx3s-85f'\? The presets are .*", "arch", "check", "ulx3s")
    refuses(r"architecture 'ulx3s-85f,lanes': write each change as field=value, .*", "arch", "check", "ulx3s-85f,lanes")
    refuses(r"architecture 'ulx3s-85f,lanes=7': lanes must be .*", "arch", "check", "ulx3s-85f,lanes=7")
    refuses(r"architecture 'ulx3s-85f,lanes=many': lanes must be a positive integer, .*", "arch", "check", "ulx3s-85f,lanes=many")
    refuses(r"architecture no\.toml: No such file or directory\. .*", "arch", "check", "no.toml")
    (here / "bad.toml").write_text("act_depth = ")
    refuses(r"architecture bad\.toml: not valid TOML: .*", "arch", "check", "bad.toml")
    (here / "bad.json").write_text("[1]")
    refuses(r"architecture bad\.json: an object with fields of ArchConfig is expected, not list", "arch", "check", "bad.json")
    (here / "base.toml").write_text('base = "zx81"')
    refuses(r"architecture base\.toml: base 'zx81' is no preset; the presets are .*", "arch", "check", "base.toml")


def test_generate(here):
    small = "icebreaker,act_depth=64,weight_depth=32,mask_depth=8"
    assert "Verilog: top.v" in works("generate", "--arch", small, "-o", "top.v")
    assert "module top(" in (here / "top.v").read_text()
    refuses(r"cannot write no/top\.v: the folder no does not exist\.", "generate", "-o", "no/top.v")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    assert "_SORDINO_COMPLETE" in works("completion", shell)


def test_a_command_that_does_not_exist():
    assert "No such command 'chek'. Did you mean 'check'?" in misuse("chek")


# -- disasm, bench, report, doctor -----------------------------------------------------------------------------------


def test_disasm(program, digits_program):
    output = works("disasm", program)
    assert "Layers" in output and "Tensors" in output and "conv2" in output
    lines = works("disasm", program, "--no-tables").splitlines()
    assert len(lines) == 1 + sum(1 + len(s.imem) for s in digits_program.segments)
    first, last = digits_program.segments[0], digits_program.segments[-1]
    assert lines[-1].split() == [f"{len(last.imem) - 1}:", "HALT"]
    assert f"# segment 0: {len(first.imem)} instructions, {first.weight.shape[1]} weight rows" in lines[1]
    refuses(r"no\.sdn: no such file\. .*", "disasm", "no.sdn")


def test_bench_layer(here):
    output = works("bench", "layer", "--size", 8, "--backend", "timing", "-d", "1,0.2,0", "--json", "bench.json")
    assert "of dense" in output
    f = figures("bench.json", "bench layer")
    assert set(f) == {"shape", "arch", "backend", "seed", "macs", "dense_cycles", "rows", "clock_mhz"}
    full, sparse, silent = f["rows"]
    assert set(full) == {"density", "measured_density", "cycles", "of_dense", "events", "nonzero_macs", "eta", "causes", "mapping"}
    inside = (8 * 3 - 2) ** 2
    assert full["nonzero_macs"] == inside * 64 * 64 and full["events"] == inside * 64 * 2
    assert full["cycles"] == f["dense_cycles"] and full["eta"] > 0.95 and sparse["eta"] > 0.95
    assert silent["nonzero_macs"] == silent["eta"] == 0 and silent["of_dense"] < 0.02


def test_bench_layer_refuses():
    refuses(r"--densities a: give numbers, comma-separated, such as 1,0\.5,0\.2,0\.", "bench", "layer", "-d", "a")
    refuses(r"bench: a density must be from 0 to 1, not 1\.5", "bench", "layer", "-d", "1.5")
    assert "'golden' is not one of 'verilator', 'timing'" in misuse("bench", "layer", "--backend", "golden")
    refuses(r"bench: cin must be positive, not 0", "bench", "layer", "--cin", 0)


@pytest.mark.slow
def test_bench_layer_reaches_its_targets_on_the_rtl():
    works("bench", "layer", "--json", "bench.json")
    rows = figures("bench.json", "bench layer")["rows"]
    assert [r["density"] for r in rows] == [1.0, 0.5, 0.2, 0.0]
    assert all(r["eta"] >= 0.95 for r in rows[:3]) and rows[3]["of_dense"] < 0.02


@pytest.mark.slow
def test_bench_sim():
    works("bench", "sim", "-n", 50, "--json", "sim.json")
    f = figures("sim.json", "bench sim")
    assert set(f) == {
        "arch", "seed", "images", "verilator_cycles_per_second", "golden_images_per_second", "timing_images_per_second",
    }  # fmt: skip
    assert f["golden_images_per_second"] >= 200


def test_report_of_a_run_is_self_contained(program, images):
    works("run", program, images, "--backend", "timing", "--json", "run.json")
    works("report", "run.json", "-o", "page.html")
    page = Path("page.html").read_text()
    assert_self_contained(page)
    assert page.count("<svg") == 2 and "conv2" in page


def test_report_refuses(here):
    refuses(r"no\.json: No such file or directory\. .*", "report", "no.json")
    (here / "x.json").write_text("{")
    refuses(r"x\.json: not a JSON document \(.*\)\.", "report", "x.json")
    (here / "y.json").write_text("{}")
    refuses(r"y\.json: a JSON document, but not of sordino: .*", "report", "y.json")
    (here / "z.json").write_text('{"command": "data"}')
    refuses(r"report: there is no page for figures of 'data'; .*", "report", "z.json")
    (here / "w.json").write_text('{"command": "run", "stats": {"cycles": null}}')
    refuses(r"report: the figures are incomplete or of another version \(.*\)\.", "report", "w.json")


def test_doctor(monkeypatch):
    output = works("doctor", "--json", "doctor.json")
    assert "Verilator" in output or "verilator" in output
    f = figures("doctor.json", "doctor")
    assert f["ok"] and set(f["tools"][0]) == {"name", "purpose", "required", "found", "version", "remedy"}
    assert {"python", "torch", "verilator", "g++", "make", "perl", "git"} <= {t["name"] for t in f["tools"]}


def test_doctor_names_what_is_missing(monkeypatch, here):
    monkeypatch.setenv("PATH", str(here))
    result = sordino("doctor", "--json", "doctor.json")
    assert result.exit_code == 2
    assert re.match(
        r"sordino: missing: g\+\+ \(building the RTL simulator\): install a C\+\+ compiler .*make .*perl .*\.\n$", result.stderr
    )
    assert not figures("doctor.json", "doctor")["ok"]


# -- demo ------------------------------------------------------------------------------------------------------------


def assert_self_contained(page):
    """Nothing in the page is loaded from elsewhere."""
    assert not re.findall(r"https?:|//[a-z]|<script|<link|<img|@import|url\((?!#)", page)


def test_the_demo_takes_networks_that_come_with_it():
    plain, star = (load_checkpoint(NETWORKS / f"{name}.safetensors") for name in ("relu", "star"))
    data = sd.data.digits()
    for trained in (plain, star):
        assert sd.train.accuracy(trained.model, data.test) == pytest.approx(trained.test_accuracy, abs=0.003)
    assert star.density < plain.density / 3


def test_demo_refuses(here):
    refuses(r"cannot write no/demo\.html: the folder no does not exist\.", "demo", "-o", "no/demo.html")
    refuses(r"demo: --images must be from 1 to 450, the size of the test set, not 451", "demo", "-n", 451)
    refuses(r"unknown architecture 'zx81': .*", "demo", "--arch", "zx81")


@pytest.mark.slow
def test_demo_reaches_its_targets():
    output = works("demo", "-n", 20, "--json", "demo.json")
    assert "RTL == golden" in output and "Report: demo.html" in output
    f = figures("demo.json", "demo")
    assert set(f) == {
        "arch",
        "seed",
        "method",
        "trained_here",
        "test_images",
        "rtl_images",
        "networks",
        "cuts",
        "comparison",
        "seconds",
    }
    plain, star = f["networks"]
    assert plain["accuracy"]["integer"] > 0.97
    gain = f["comparison"]
    assert gain["fewer_nonzero_activations"] >= 2 and gain["accuracy_lost"] <= 0.005
    assert gain["fewer_cycles"] >= 0.85 * gain["fewer_nonzero_activations"]
    for n, eta in ((plain, 0.9), (star, 0.8)):
        stats = n["rtl"]["stats"]
        assert stats["total"]["eta"] > eta and n["rtl"]["speedup_over_dense"] == n["rtl"]["dense_cycles"] / stats["total"]["cycles"]
        assert n["rtl"]["values_compared"] == 20 * ((64 + 128) * 64 + 2 * 64 * 16 + 10)
        assert n["agreement"]["top1"] == 1 - len(n["agreement"]["disagreements"]) / 450
    page = Path("demo.html").read_text()
    assert_self_contained(page)
    assert page.count("<svg") == 5
    assert render(json.loads(Path("demo.json").read_text())) == page
