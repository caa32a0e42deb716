"""The video task: what a clip shows, what the parts share (nothing), what changes from frame to frame."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits

from sordino.data import digits, redundancy, video
from sordino.data.__main__ import app
from sordino.data.video import CAMERAS, COLUMNS, DIGIT_SPEED, WINDOW, render, scenes
from sordino_hw.spec.errors import InputError

PARTS = ("train", "validation", "test")


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("channels", (1, 3))
def test_shapes_values_and_labels(camera, channels):
    task = video(camera, clips=(6, 5, 4), frames=3, size=16, channels=channels)
    for (x, y), n in zip((task.train, task.validation, task.test), (6, 5, 4), strict=True):
        assert x.shape == (n, 3, channels, 16, 16) and x.dtype == torch.float32
        assert y.shape == (n,) and y.dtype == torch.int64
        levels = x * 255
        assert levels.min() >= 0 and levels.max() <= 255 and torch.allclose(levels, levels.round(), atol=1e-4)


def test_same_arguments_same_clips():
    a, b, other = (video("moving", clips=(4, 3, 3), frames=4, size=16, seed=s).train for s in (7, 7, 8))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(a[0], other[0])


def test_a_clip_does_not_depend_on_how_many_there_are():
    few, many = (scenes("validation", n, frames=4) for n in (3, 70))
    assert torch.equal(render(few, size=16), render(many, size=16)[:3])


def test_labels_are_those_of_the_source_digits():
    for part in PARTS:
        s = scenes(part, 500)
        assert np.array_equal(s.label, load_digits().target[s.source])


def test_parts_share_no_digit_and_no_background():
    sources, columns = [], []
    for part in PARTS:
        s = scenes(part, 2000, camera="moving", frames=20)
        sources.append(set(s.source.tolist()))
        columns.append((s.camera[..., 1].min(), s.camera[..., 1].max() + WINDOW))
        left, right = COLUMNS[part]
        assert left <= columns[-1][0] and columns[-1][1] <= right
        assert s.camera[..., 0].min() >= 0 and s.camera[..., 0].max() + WINDOW <= 427
    split = digits()
    assert [len(s) for s in sources] == [len(split.train[1]), len(split.validation[1]), len(split.test[1])]
    assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]
    assert columns[0][1] <= columns[1][0] and columns[1][1] <= columns[2][0]


def test_every_digit_is_taken_before_any_is_taken_again():
    source = scenes("validation", 700).source
    assert len(set(source[:300].tolist())) == 300 and np.array_equal(source[:300], source[300:600])


def test_digits_stay_inside_bounce_and_change_speed():
    s = scenes("train", 300, frames=40)
    half = s.height[:, None, None] / 2
    assert (s.centre >= half - 1e-9).all() and (s.centre <= 1 - half + 1e-9).all()
    step = np.diff(s.centre, axis=1)
    speed = np.hypot(step[..., 0], step[..., 1])
    assert speed.max() <= DIGIT_SPEED[1] * 1.0001
    assert speed.min(1).mean() < 0.6 * speed.max(1).mean()
    # a bounce turns one component of the velocity round within a frame; wandering alone seldom does so that hard
    turns = (step[:, 1:] * step[:, :-1] < 0) & (np.minimum(np.abs(step[:, 1:]), np.abs(step[:, :-1])) > 0.01)
    assert turns.any((1, 2)).mean() > 0.5


def test_cameras_differ_in_the_background_alone():
    static, moving = (scenes("train", 20, camera=c, frames=8) for c in CAMERAS)
    for name in ("source", "label", "centre", "height", "photograph", "contrast"):
        assert np.array_equal(getattr(static, name), getattr(moving, name))
    assert (static.camera == static.camera[:, :1]).all()
    assert np.array_equal(static.camera[:, 0], moving.camera[:, 0])
    pan = np.abs(np.diff(moving.camera, axis=1)) * 32 / WINDOW
    assert pan.min() > 0 and pan.max() < 1.3 and ((pan > 0.1) & (pan < 0.9)).mean() > 0.3


def test_without_noise_a_static_background_stands_still_and_a_moving_one_does_not():
    def outside(camera):
        s = scenes("test", 12, camera=camera)
        x = render(s, size=32, noise=0)
        pixel = (np.arange(32) + 0.5) / 32
        far = np.abs(pixel - s.centre[..., None]).min(1) > s.height[:, None, None] * 0.65
        keep = torch.from_numpy(far[:, 0, :, None] | far[:, 1, None, :])[:, None]
        return (x[:, 1:] - x[:, :-1])[:, :, 0][keep[:, 0][:, None].expand(-1, 7, -1, -1)]

    assert outside("static").numel() > 1000 and not outside("static").any()
    assert (outside("moving") != 0).float().mean() > 0.3


def test_noise_has_the_variance_it_claims():
    s = scenes("train", 6, frames=60)
    still = type(s)(**{**vars(s), "centre": np.broadcast_to(s.centre[:, :1], s.centre.shape)})
    clean, noisy = (render(still, size=32, noise=n)[:, :, 0] for n in (0, 0.04))
    middle = (clean[:, 0] > 0.2) & (clean[:, 0] < 0.8)  # away from the clamps
    expected = 0.04**2 * (clean[:, 0] + 1 / 16) + 1 / 255**2 / 12
    ratio = (noisy.var(1) / expected)[middle]
    assert ratio.numel() > 1000 and abs(float(ratio.mean()) - 1) < 0.03
    error = (noisy - clean).mean(1)[middle] / (expected[middle] / 60).sqrt()
    assert abs(float(error.std()) - 1) < 0.1


def test_the_frame_shows_the_digit_at_its_place():
    """At 1/8 of the digit's height per sample, the frame is the digit's image itself."""
    s = scenes("train", 30, frames=1)
    exact = type(s)(**{**vars(s), "centre": np.full_like(s.centre, 0.5), "height": np.full(30, 0.5), "contrast": np.zeros(30)})
    frame = render(exact, size=16, noise=0)[:, 0, 0, 4:12, 4:12]
    image = torch.from_numpy(load_digits().images[s.source]).float() / 16
    ink = image == 1
    assert ink.sum() > 100
    extreme = torch.where(frame > 0.5, 1 - frame, frame)
    assert float(extreme[ink].max()) < 1 / 255
    paper = image == 0
    away = render(type(s)(**{**vars(exact), "centre": np.full_like(s.centre, 5.0)}), size=16, noise=0)[:, 0, 0, 4:12, 4:12]
    assert torch.equal(frame[paper], away[paper])


def test_redundancy_is_what_it_says(rng):
    x = rng.integers(0, 256, (3, 6, 1, 4, 4))
    for r in redundancy(torch.from_numpy(x / 255).float(), (0, 40, 200)):
        assert r.changed == np.mean(np.abs(np.diff(x, axis=1)) > r.step)
        events = 0
        for clip in x.reshape(3, 6, -1):
            sent = list(clip[0])
            for frame in clip[1:]:
                for i, v in enumerate(frame):
                    if abs(v - sent[i]) > r.step:
                        sent[i], events = v, events + 1
        assert r.events == events / x[:, 1:].size


def test_a_panning_camera_leaves_less_redundancy():
    static, moving = (redundancy(render(scenes("test", 60, camera=c)), (8,))[0] for c in CAMERAS)
    assert 0.1 < static.events < moving.events < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera": "drone"}, r"video: camera must be 'static' or 'moving', not 'drone'"),
        ({"frames": 0}, r"video: frames must be an integer from 1 to 1024, not 0"),
        ({"clips": (1, 1)}, r"video: clips must be three numbers \(train, validation, test\), not \(1, 1\)"),
        ({"clips": (1, 0, 1)}, r"video: clips must be an integer from 1 to 1048576, not 0"),
        ({"seed": -1}, r"video: seed must be an integer from 0 to \d+, not -1"),
        ({"size": 8}, r"video: size must be an integer from 16 to 256, not 8"),
        ({"channels": 2}, r"video: channels must be 1 or 3, not 2"),
        ({"noise": float("nan")}, r"video: noise must be from 0 to 1, not nan"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        video(**{"clips": (1, 1, 1), **arguments})


def test_redundancy_refuses_single_frames_and_other_ranges():
    with pytest.raises(
        InputError, match=r"^redundancy: needs clips \[n, t, ...\] with at least 2 frames, not of shape \(3, 1, 2, 2\)$"
    ):
        redundancy(torch.zeros(3, 1, 2, 2))
    with pytest.raises(InputError, match=r"^redundancy: values must be from 0 to 1, not -1 to 2$"):
        redundancy(torch.tensor([[-1.0, 2.0]]))


def test_command(tmp_path):
    options = ["--clips", "4", "--size", "16", "--frames", "3"]
    files = ["--json", str(tmp_path / "f.json"), "--sheet", str(tmp_path / "s.png")]
    done = CliRunner().invoke(app, [*options, *files])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["settings"]["size"] == 16 and set(figures["redundancy"]) == set(CAMERAS)
    expected = redundancy(render(scenes("test", 4, frames=3), size=16))
    assert figures["redundancy"]["static"] == [vars(r) for r in expected]
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (3 * 16, 8 * 16)
    unwritable = CliRunner().invoke(app, [*options, "--json", str(tmp_path / "none" / "f.json")])
    assert unwritable.exit_code == 2 and str(tmp_path / "none") in unwritable.stderr
    refused = CliRunner().invoke(app, [*options, "--noise", "2"])
    assert refused.exit_code == 2 and refused.stderr == "video: noise must be from 0 to 1, not 2.0\n"
