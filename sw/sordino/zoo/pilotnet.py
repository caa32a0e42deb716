"""PilotNet: steering from a camera image."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .blocks import initialise, positive
from .registry import Entry, add

__all__ = ["PilotNet"]


class PilotNet(nn.Module):
    """(N, 3, 66, 200) -> (N, num_outputs). End to End Learning for Self-Driving Cars, Bojarski et al. 2016 (arXiv 1604.07316).

    Five convolutions and four fully connected layers: 252,219 parameters ("250 thousand" in the paper), 26.9 million
    multiply-accumulates ("27 million connections"). The paper's first layer normalises the YUV image by fixed factors;
    here that is the data's job (to about -1..1). It names no activation: ReLU, and none at the output (inverse turning
    radius). No checkpoint was published; the names are ours.
    """

    def __init__(self, num_outputs: int = 1):
        super().__init__()
        positive("num_outputs", num_outputs)
        convolutions: list[nn.Module] = []
        channels = (3, 24, 36, 48, 64, 64)
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            kernel, stride = (5, 2) if i < 3 else (3, 1)
            convolutions += [nn.Conv2d(inputs, outputs, kernel, stride), nn.ReLU()]
        self.features = nn.Sequential(*convolutions)
        self.classifier = nn.Sequential(
            nn.Linear(64 * 1 * 18, 100),
            nn.ReLU(),
            nn.Linear(100, 50),
            nn.ReLU(),
            nn.Linear(50, 10),
            nn.ReLU(),
            nn.Linear(10, num_outputs),
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


add(Entry("pilotnet", PilotNet, {}, (3, 66, 200), "none published", "arXiv 1604.07316", "none published; the paper's are YUV"))
