"""How hard the video task is: a small plain network, frame by frame, on both cameras.

    python benchmarks/video_baseline.py [--epochs N]

Prints the test accuracy of whole clips (mean of the frames' logits) and of first frames alone.
"""

import argparse

import torch
from torch import nn

import sordino as sd
from sordino.data import video
from sordino.data.video import CAMERAS


def network() -> nn.Sequential:
    """Frames of 32x32 pixels: 1, 16, 32, 32, 32 channels with strides."""
    layers: list[nn.Module] = []
    for cin, cout, stride in ((1, 16, 2), (16, 32, 1), (32, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.epochs} epochs, seed {options.seed}")
    print("camera  clips  first frames")
    for camera in CAMERAS:
        task = video(camera, seed=options.seed)
        torch.manual_seed(options.seed)
        clips = sd.nn.Clips(network())
        sd.train.fit(clips, task.train, task.validation, options.epochs, lr=3e-3, seed=options.seed, label=camera)
        x, y = task.test
        print(f"{camera:7} {sd.train.accuracy(clips, (x, y)):5.3f}  {sd.train.accuracy(clips, (x[:, :1], y)):5.3f}")


if __name__ == "__main__":
    main()
