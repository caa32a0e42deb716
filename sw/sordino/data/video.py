"""A video task made of real images: handwritten digits moving over real photographs, filmed with a noisy sensor.

What moves is one of scikit-learn's handwritten digits, and its class is the label; it moves over one of scikit-learn's
two photographs (427x640, a temple and a flower). Nothing is downloaded.

`scenes` draws what happens in each clip (`Scenes`), `render` films it, `video` does both for the three parts of a
data set. `redundancy` measures how much of a clip repeats the frame before.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional

from sordino_hw.spec.errors import InputError

from .digits import Split, digits

__all__ = ["CAMERAS", "Redundancy", "Scenes", "redundancy", "render", "scenes", "video"]

CAMERAS = ("static", "moving")
PARTS = ("train", "validation", "test")
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
COLUMNS = {"train": (0, 320), "validation": (320, 480), "test": (480, 640)}
"""Columns of the photographs that a part may show: no part sees another's background either."""

WINDOW = 96
"""Photograph pixels across one frame, whatever the frame's size."""

DIGIT_HEIGHT = (0.5, 0.65)
"""Height of a digit's 8x8 image, in frames."""

DIGIT_SPEED = (0.01, 0.08)
CAMERA_SPEED = (0.005, 0.04)
"""In frames per frame interval: at 32 pixels, 0.3 to 2.6 for the digit and 0.2 to 1.3 for the camera."""

CHUNK = 64
"""Clips rendered at a time, to bound the memory."""


@dataclass(frozen=True)
class Scenes:
    """What happens in n clips of t frames. Positions are (y, x)."""

    source: np.ndarray
    """int64 [n]: which digit moves, an index into `sklearn.datasets.load_digits`."""
    label: np.ndarray
    """int64 [n]: its class."""
    centre: np.ndarray
    """float64 [n, t, 2]: its centre; the frame is 0 to 1."""
    height: np.ndarray
    """float64 [n]: height of its 8x8 image, in frames."""
    photograph: np.ndarray
    """int64 [n]: index into `PHOTOGRAPHS`."""
    camera: np.ndarray
    """float64 [n, t, 2]: the frame's upper left corner, in pixels of the photograph."""
    contrast: np.ndarray
    """float64 [n]: how far the ink is from the extreme opposite to the background (white on dark, black on bright)."""
    noise_seed: tuple[int, int]
    """The noise of clip i is drawn from the seed (*noise_seed, i)."""

    def __len__(self) -> int:
        return len(self.label)


def video(
    camera: str = "static",
    *,
    frames: int = 8,
    size: int = 32,
    channels: int = 1,
    clips: Sequence[int] = (2094, 300, 450),
    noise: float = 0.02,
    seed: int = 0,
) -> Split:
    """The task: which digit moves? Each part is (clips float32 [n, frames, channels, size, size], labels int64 [n]).

    Values are multiples of 1/255 from 0 to 1, as an 8-bit sensor gives them. The parts share neither a digit nor a
    region of a photograph; digits are cut as in `digits`, in the order in which people wrote them.

    Parameters
    ----------
    camera : "static", where the background stands still, or "moving", where it pans by fractions of a pixel. The same
        digits move the same way in both
    channels : 1 (luminance) or 3 (RGB; the ink is grey)
    clips : numbers of training, validation and test clips. Every digit of a part is taken once before any is taken again
    noise : standard deviation of the sensor's noise at white; at value v its variance is noise**2 * (v + 1/16), shot
        noise plus read noise. 0 switches it off

    Deterministic in its arguments, and clip i of a part does not depend on how many clips there are.
    Raises `InputError` for an argument out of range.
    """
    if len(clips) != len(PARTS):
        raise InputError(f"video: clips must be three numbers (train, validation, test), not {clips!r}")
    parts = []
    for part, n in zip(PARTS, clips, strict=True):
        s = scenes(part, n, camera=camera, frames=frames, seed=seed)
        parts.append((render(s, size=size, channels=channels, noise=noise), torch.from_numpy(s.label)))
    return Split(*parts)


def scenes(part: str, n: int, *, camera: str = "static", frames: int = 8, seed: int = 0) -> Scenes:
    """Draws `n` clips of a part ("train", "validation", "test"); arguments as for `video`.

    Digit and camera change speed and heading at every frame (random walks) and bounce off the frame's edge and off the
    edge of the part's region. Raises `InputError` for an argument out of range.
    """
    if camera not in CAMERAS:
        raise InputError(f"video: camera must be 'static' or 'moving', not {camera!r}")
    if part not in PARTS:
        raise InputError(f"video: part must be one of {', '.join(PARTS)}, not {part!r}")
    for name, value, least, most in (("clips", n, 1, 1 << 20), ("frames", frames, 1, 1024), ("seed", seed, 0, (1 << 63) - 1)):
        if type(value) is not int or not least <= value <= most:
            raise InputError(f"video: {name} must be an integer from {least} to {most}, not {value!r}")
    index = PARTS.index(part)
    split = digits()
    labels = [getattr(split, p)[1].numpy() for p in PARTS]
    first = sum(len(y) for y in labels[:index])
    order = np.random.default_rng([seed, index]).permutation(len(labels[index]))
    picked = order[np.arange(n) % len(order)]
    left, right = COLUMNS[part]
    rows = _photograph(PHOTOGRAPHS[0]).shape[-2]
    box = np.array([0, left], float), np.array([rows - WINDOW, right - WINDOW], float)

    centre, cameras = np.empty((n, frames, 2)), np.empty((n, frames, 2))
    height, contrast, photograph = np.empty(n), np.empty(n), np.empty(n, np.int64)
    for i in range(n):
        rng = np.random.default_rng([seed, index, i])
        height[i] = rng.uniform(*DIGIT_HEIGHT)
        contrast[i] = rng.uniform(0, 0.15)
        photograph[i] = rng.integers(len(PHOTOGRAPHS))
        margin = np.full(2, height[i] / 2)
        centre[i] = _wander(rng, frames, margin, 1 - margin, DIGIT_SPEED)
        cameras[i] = _wander(rng, frames, *box, tuple(WINDOW * v for v in CAMERA_SPEED))
    if camera == "static":
        cameras = np.broadcast_to(cameras[:, :1], cameras.shape)
    return Scenes(first + picked, labels[index][picked], centre, height, photograph, cameras, contrast, (seed, index))


def _wander(rng: np.random.Generator, frames: int, low: np.ndarray, high: np.ndarray, speed) -> np.ndarray:
    """A path [frames, 2] in the box from `low` to `high`: speed and heading change, the box's sides reflect."""
    start = rng.uniform(low, high)
    heading = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.3, frames - 1).cumsum()
    least, most = np.log(speed)
    pace = np.exp((rng.uniform(least, most) + rng.normal(0, 0.3, frames - 1).cumsum()).clip(least, most))
    steps = pace[:, None] * np.stack((np.sin(heading), np.cos(heading)), 1)
    path = np.concatenate((start[None], start + steps.cumsum(0)))
    span = high - low
    return low + span - np.abs((path - low) % (2 * span) - span)


def render(scene: Scenes, *, size: int = 32, channels: int = 1, noise: float = 0.02) -> Tensor:
    """Films scenes: float32 [n, t, channels, size, size], multiples of 1/255; arguments as for `video`.

    Background: bilinear samples of the photograph, several to a pixel, averaged as a sensor's pixel does; so a pan by
    a fraction of a pixel is one. Digit: its 8x8 image, bilinear, is the opacity of the ink.
    Raises `InputError` for an argument out of range.
    """
    if type(size) is not int or not 16 <= size <= 256:
        raise InputError(f"video: size must be an integer from 16 to 256, not {size!r}")
    if channels not in (1, 3):
        raise InputError(f"video: channels must be 1 or 3, not {channels!r}")
    if not 0 <= noise <= 1:
        raise InputError(f"video: noise must be from 0 to 1, not {noise!r}")
    parts = digits()
    images = torch.cat([parts.train[0], parts.validation[0], parts.test[0]])
    out = torch.empty(len(scene), scene.centre.shape[1], channels, size, size)
    for i in range(0, len(scene), CHUNK):
        pick = slice(i, min(i + CHUNK, len(scene)))
        clip = _background(scene, pick, size, channels)
        mean = clip.mean((1, 2, 3, 4))
        contrast = torch.tensor(scene.contrast[pick]).float()
        ink = torch.where(mean < 0.5, 1 - contrast, contrast)[:, None, None, None, None]
        clip = torch.lerp(clip, ink, _opacity(scene, pick, size, images[scene.source[pick]]))
        if noise:
            shape = clip.shape[1:]
            seeds = ([*scene.noise_seed, j, 1] for j in range(pick.start, pick.stop))
            grain = np.stack([np.random.default_rng(s).standard_normal(shape, np.float32) for s in seeds])
            clip = clip + noise * (clip + 1 / 16).sqrt() * torch.from_numpy(grain)
        out[pick] = (clip.clamp(0, 1) * 255).round() / 255
    return out


@functools.cache
def _photograph(name: str) -> Tensor:
    """float32 [3, rows, columns], 0 to 1."""
    return torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float() / 255


def _background(scene: Scenes, pick: slice, size: int, channels: int) -> Tensor:
    """float32 [clips, t, channels, size, size] (for a static camera, expanded over time)."""
    camera = torch.tensor(scene.camera[pick])
    n, t = camera.shape[:2]
    still = bool((camera == camera[:, :1]).all())
    camera = camera[:, :1] if still else camera
    per_pixel = max(2, -(-WINDOW // size))
    samples = (torch.arange(size * per_pixel) + 0.5) * (WINDOW / (size * per_pixel))
    out = torch.empty(n, camera.shape[1], channels, size, size)
    for index, name in enumerate(PHOTOGRAPHS):
        photo = _photograph(name)
        if channels == 1:
            photo = (photo * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        here = torch.tensor(scene.photograph[pick] == index)
        y, x = ((camera[here][..., axis, None] + samples).float() * (2 / photo.shape[1 + axis]) - 1 for axis in (0, 1))
        k = len(samples)
        grid = torch.stack((x[..., None, :].expand(*x.shape[:2], k, k), y[..., :, None].expand(*y.shape[:2], k, k)), -1)
        # one image, all windows below each other: the photograph is not copied for each clip
        sampled = functional.grid_sample(
            photo[None], grid.reshape(1, -1, k, 2), "bilinear", padding_mode="border", align_corners=False
        )
        sampled = sampled[0].reshape(channels, *x.shape[:2], k, k).permute(1, 2, 0, 3, 4)
        out[here] = functional.avg_pool2d(sampled.flatten(0, 1), per_pixel).unflatten(0, x.shape[:2])
    return out.expand(n, t, channels, size, size)


def _opacity(scene: Scenes, pick: slice, size: int, images: Tensor) -> Tensor:
    """Digits where they are: float32 [clips, t, 1, size, size] from images [clips, 1, 8, 8]."""
    pixels = (torch.arange(size) + 0.5) / size
    centre, height = torch.tensor(scene.centre[pick]), torch.tensor(scene.height[pick])
    y, x = (((pixels - centre[..., axis, None]) * 2 / height[:, None, None]).float() for axis in (0, 1))
    shape = (*y.shape, size)
    grid = torch.stack((x[..., None, :].expand(shape), y[..., :, None].expand(shape)), -1)
    drawn = functional.grid_sample(images, grid.flatten(1, 2), "bilinear", padding_mode="zeros", align_corners=False)
    return drawn.reshape(*y.shape[:2], 1, size, size)


@dataclass(frozen=True)
class Redundancy:
    """How much of video changes, at one step (in 1/255). Parts of all values but the first frames', 0 to 1."""

    step: int
    changed: float
    """Differ by more than `step` from the same value one frame before."""
    events: float
    """Differ by more than `step` from the value last sent, and are sent then: what a difference-coded input costs."""


def redundancy(clips: Tensor, steps: Sequence[int] = (0, 1, 2, 4, 8, 16, 32)) -> list[Redundancy]:
    """Measures clips [n, t, ...] of values 0 to 1, t at least 2. Raises `InputError` otherwise."""
    if clips.ndim < 2 or clips.shape[1] < 2 or not clips.numel():
        raise InputError(f"redundancy: needs clips [n, t, ...] with at least 2 frames, not of shape {tuple(clips.shape)}")
    x = (clips * 255).round().to(torch.int16)
    if not 0 <= int(x.min()) <= int(x.max()) <= 255:
        raise InputError(f"redundancy: values must be from 0 to 1, not {float(clips.min()):g} to {float(clips.max()):g}")
    total = x[:, 1:].numel()
    out = []
    for step in steps:
        changed = int(((x[:, 1:] - x[:, :-1]).abs() > step).sum())
        sent, events = x[:, 0].clone(), 0
        for frame in x[:, 1:].unbind(1):
            event = (frame - sent).abs() > step
            events += int(event.sum())
            sent = torch.where(event, frame, sent)
        out.append(Redundancy(step, changed / total, events / total))
    return out
