"""Folded inputs: the phases of a layer against the layer itself, which inputs fold, and compiled programs."""

from dataclasses import replace

import numpy as np
import pytest
from graphs import SMALL, Net
from hypothesis import given
from hypothesis import strategies as st

from sordino_compiler.driver import compile_graph
from sordino_compiler.graph import Requant, Value, Window
from sordino_compiler.ops import Conv
from sordino_compiler.schedule.folding import choose_folds, period, phases
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_sim.golden.model import Golden

# -- phases ----------------------------------------------------------------------------------------------------------


@st.composite
def layers(draw) -> tuple[Conv, int, np.ndarray]:
    """A convolution, the pixels in a word of its input, and an input [1, c, h, w]."""
    c, h, w, cout = (draw(st.integers(1, n)) for n in (12, 6, 40, 3))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 11)))
    padding = tuple(draw(st.integers(0, k)) for k in (*kernel, *kernel))
    stride = (draw(st.integers(1, 2)), draw(st.sampled_from((1, 2, 3, 4, 6))))
    window = Window(kernel, stride, padding, (draw(st.integers(1, 2)), draw(st.integers(1, 3))))
    while min(window.out_size(h, w)) < 1:
        h, w = h + 1, w + 5
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weight = rng.integers(-128, 128, (cout, c, *kernel)).astype(np.int8)
    requant = Requant.identity(cout, SMALL, True)
    value = Value("y", (cout, *window.out_size(h, w)), 1.0, True)
    x = rng.integers(-128, 128, (1, c, h, w)) * (rng.random((1, c, h, w)) < 0.5)
    return Conv(out=value, inputs=("x",), weight=weight, window=window, requant=requant), draw(st.integers(2, 10)), x


def folded(x: np.ndarray, fold: int) -> np.ndarray:
    """[b, c, h, w] -> [b, fold * c, h, words], as `Program.pack` lays a row out."""
    b, c, h, w = x.shape
    padded = np.zeros((b, c, h, -(-w // fold) * fold), x.dtype)
    padded[..., :w] = x
    return padded.reshape(b, c, h, -1, fold).transpose(0, 4, 1, 2, 3).reshape(b, fold * c, h, -1)


def accumulate(conv: Conv, x: np.ndarray) -> np.ndarray:
    """`Conv.accumulate` where negative padding crops."""
    top, left, bottom, right = conv.window.padding
    x = np.pad(x, ((0, 0), (0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))))
    x = x[..., max(-left, 0) : x.shape[3] - max(-right, 0)]
    return replace(conv, window=replace(conv.window, padding=(0, 0, 0, 0))).accumulate([x])


@given(layers())
def test_phases_make_every_output_once(layer):
    conv, fold, x = layer
    want, words = conv.accumulate([x]), folded(x, fold)
    got, times = np.zeros_like(want), np.zeros(want.shape[3], int)
    for phase in phases(conv, fold, x.shape[3]):
        got[..., phase.columns] = accumulate(phase, words)
        times[phase.columns] += 1
        assert phase.out.shape == (*want.shape[1:3], len(phase.columns))
        assert phase.window.out_size(*words.shape[2:]) == phase.out.shape[1:]
        assert phase.columns.step == period(fold, conv.window.stride[1])
        assert phase.columns.step * conv.window.stride[1] == phase.window.stride[1] * fold
    assert (times == 1).all()
    np.testing.assert_array_equal(got, want)


@given(layers())
def test_taps_are_the_kernel(layer):
    """Inside the kernel are as many channels as it has, and outside of it all weights are zero."""
    conv, fold, x = layer
    for phase in phases(conv, fold, x.shape[3]):
        assert phase.taps.shape == phase.weight.shape[1:]
        assert phase.taps.sum() == conv.weight[0].size
        assert not phase.weight[:, ~phase.taps].any()
        assert phase.taps[..., 0].any() and phase.taps[..., -1].any()


@given(layers())
def test_phases_share_weight_rows(layer):
    """Lane after lane and word after word, the rows of a kernel row are the same ones in every phase."""
    conv, fold, x = layer
    rows = set()
    for phase in phases(conv, fold, x.shape[3]):
        image = phase.weight.transpose(2, 3, 1, 0).reshape(conv.window.kernel[0], -1, len(conv.weight))
        used = np.flatnonzero(phase.taps[:, 0].T)
        rows.add(image[:, used[0] : used[-1] + 1].tobytes())
    assert len(rows) == 1


# -- which inputs fold -----------------------------------------------------------------------------------------------


def image(c=3, w=32, h=64, **arch) -> Net:
    net = Net(ArchConfig(**arch))
    net.input("x", c, h, w)
    return net


@pytest.mark.parametrize(
    ("c", "w", "fold"),
    [
        (3, 224, 10),  # all lanes that there are
        (3, 32, 8),  # four words, with ten pixels in each as well
        (3, 5, 5),  # the whole row
        (3, 1, 1),
        (12, 32, 2),
        (16, 32, 2),
        (17, 32, 1),
        (64, 32, 1),
        (1, 28, 28),
    ],
)
def test_fewest_words(c, w, fold):
    net = image(c, w)
    net.conv("y", "x", 8)
    assert choose_folds(net.graph("y")).get("x", 1) == fold


def test_every_reader_counts():
    """Eight to ten pixels in a word make four words each; which of them makes the fewest phases depends on the strides."""
    net = image()
    net.conv("y", "x", 8, kernel=(1, 1), stride=(1, 5))
    assert choose_folds(net.graph("y")) == {"x": 10}
    net.conv("z", "x", 8, kernel=(1, 1), stride=(1, 8))
    net.conv("u", "x", 8, kernel=(1, 1), stride=(1, 8))
    assert choose_folds(net.graph("y", "z", "u")) == {"x": 8}


def test_inputs_that_others_read_stay_as_they_are():
    """Vector operations, residuals and copies take a pixel's channels from the lanes where the pixel has them."""
    for read in (
        lambda n: n.depthwise("z", "x"),
        lambda n: n.maxpool("z", "x"),
        lambda n: n.slice("z", "x", 1, 3),
        lambda n: n.concat("z", "y", "x"),
        lambda n: n.conv("z", "x", 3, groups=3),
        lambda n: n.conv("z", "y", 3, residual="x"),
    ):
        net = image()
        net.conv("y", "x", 3)
        assert choose_folds(net.graph("y")) == {"x": 8}
        read(net)
        assert choose_folds(net.graph("z")) == {}
    net = image()
    net.conv("y", "x", 3)
    net.flatten("z", "x")
    assert choose_folds(net.graph("y", "z")) == {"x": 8}


def test_less_folding_where_memories_are_small():
    for depth, fold in (({"weight_depth": 143}, 7), ({"mask_depth": 29}, 7), ({"mask_depth": 11}, 1)):
        net = image(**depth)
        net.conv("y", "x", 8)
        assert choose_folds(net.graph("y")).get("x", 1) == fold, depth


# -- programs --------------------------------------------------------------------------------------------------------


def first_layers(rng: np.random.Generator) -> Net:
    """One or two layers, or a flattened value, on a narrow input, some weights pruned, perhaps a residual."""
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    cores = pick(1, 1, 2, 4)
    arch = ArchConfig(cores=cores, ports=pick(1, cores), lanes=pick(8, 16, 24, 32), ppu=8, act_depth=1 << 14)
    net = Net(arch.replace(weight_depth=pick(400, 4096), mask_depth=pick(48, 512)), seed=int(rng.integers(1 << 30)))
    c, h, w = int(rng.integers(1, 13)), int(rng.integers(3, 14)), int(rng.integers(3, 40))
    net.input("x", c, h, w)
    for i in range(pick(1, 1, 2)):
        kernel = (int(rng.integers(1, min(h, 11) + 1)), int(rng.integers(1, min(w, 11) + 1)))
        dilation = (1, pick(1, 1, 2)) if w >= 2 * kernel[1] else (1, 1)
        padding = tuple(int(n) for n in rng.integers(0, [*kernel, *kernel], endpoint=True))
        cout = int(rng.integers(1, 2 * arch.lanes))
        weight = rng.integers(-128, 128, (cout, c, *kernel)) * (rng.random((1, c, *kernel)) < pick(0.3, 1, 1))
        stride = (pick(1, 2, 4), pick(1, 2, 3, 4))
        y = f"y{i}"
        net.conv(y, "x", cout, kernel, padding, weight=weight.astype(np.int8), stride=stride, dilation=dilation)
        if pick(False, False, True):
            net.input(f"r{i}", *net.shapes[y])
            net.conv(f"z{i}", "x", cout, kernel, padding, residual=f"r{i}", stride=stride, dilation=dilation)
    if pick(False, False, True):
        net.conv("l", net.flatten("f", "x"), 5, (1, 1))
    return net


@pytest.mark.parametrize("block", range(10))
def test_folded_programs_compute_the_same(block, seed, monkeypatch):
    """Against the integer graph, for every tensor; with the events and MACs of the same program without folding.

    Which random cases fold is chance: more of them than fifteen, until more than ten programs were folded.
    """
    monkeypatch.setattr("sordino_compiler.schedule.folding.PHASE_OUTPUTS", 1)
    folded = 0
    for i in range(60):
        if i >= 15 and folded > 10:
            break
        net = first_layers(np.random.default_rng([*seed, block, i]))
        graph = net.graph(*(n.out.name for n in net.nodes if isinstance(n, Conv)))
        inputs = net.inputs(batch=2, density=float(net.rng.random()))
        want = graph.run(inputs)
        for dense in (False, True):
            found = []
            for option in (False, True):
                program = compile_graph(graph, dense=dense, reuse=False, fold=option)
                program.check()
                assert option or all(t.fold == 1 for t in program.tensors.values())
                result = Golden(program).run(inputs, keep=list(program.tensors))
                for name, got in result.tensors.items():
                    assert np.array_equal(got, want[name]), f"{name}, {program.meta}"
                found.append(result)
            plain, result = found
            assert np.array_equal(result.nonzero_macs.sum(1), plain.nonzero_macs.sum(1))
            if not dense:
                assert np.array_equal(result.events.sum(1), plain.events.sum(1))
            folded += program.tensors["x"].fold > 1
    assert folded > 10


def test_an_image_takes_fewer_words_and_no_more_weight_rows():
    net = image(w=224, h=4)
    net.conv("y", "x", 32, (7, 7), stride=(2, 2))
    plain, folded = (compile_graph(net.graph("y"), fold=option) for option in (False, True))
    assert (plain.addresses("x").size, folded.addresses("x").size) == (4 * 224, 4 * 23)
    assert (len(plain.ops), len(folded.ops)) == (1, 5)
    for program, masks in ((plain, 7 * 7), (folded, 7 * 8)):
        (segment,) = program.segments
        assert segment.weight.shape[1] == 7 * 7 * 3 and segment.mask.shape[1] == masks


@pytest.mark.parametrize(("h", "fold"), [(1, 1), (2, 2), (4, 4), (7, 7), (9, 8)])
def test_phases_are_not_too_short(h, fold):
    """32 columns of `h` outputs make at most `h` phases of 32 outputs."""
    net = image(h=h)
    net.conv("y", "x", 8)
    assert choose_folds(net.graph("y")).get("x", 1) == fold


def test_a_single_phase_is_never_too_short():
    net = image(h=1)
    net.conv("y", "x", 8, (1, 1), stride=(1, 8))
    assert choose_folds(net.graph("y")) == {"x": 8}


def test_what_fits_only_with_folding():
    net = image(w=224, h=4, act_depth=1024)
    net.conv("y", "x", 32, (3, 3), stride=(2, 2))
    with pytest.raises(CompileError, match=r"need 1120 words of 32 channels"):
        compile_graph(net.graph("y"), fold=False)
    assert compile_graph(net.graph("y")).tensors["x"].fold == 10
