"""A quantised network for digits with random weights, made once: its values do not matter, only that all agree on them."""

import pytest
import torch
from torch import nn

import sordino as sd


class Small(nn.Module):
    """Three convolutions and a fully connected layer: two segments on `ulx3s-85f`."""

    def __init__(self):
        super().__init__()
        for i, (cin, cout, stride) in enumerate(((1, 32, 1), (32, 64, 1), (64, 64, 2)), 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.ReLU())
        self.fc = nn.Linear(1024, 10)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.fc(x.flatten(1))


@pytest.fixture(scope="session")
def digits():
    return sd.data.digits()


@pytest.fixture(scope="session")
def digits_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small().eval()


@pytest.fixture(scope="session")
def digits_quantised(digits, digits_model):
    return sd.quantize(digits_model, digits.train[0][:64])


@pytest.fixture(scope="session")
def digits_program(digits_quantised):
    return sd.compile(digits_quantised, name="digits")
