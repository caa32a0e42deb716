"""A quantised digits network with random weights, made once: its values do not matter, only that all agree on them."""

import pytest
import torch

import sordino as sd
from sordino.tasks import DIGITS


@pytest.fixture(scope="session")
def digits():
    return sd.data.digits()


@pytest.fixture(scope="session")
def digits_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DIGITS.build().eval()


@pytest.fixture(scope="session")
def digits_quantised(digits, digits_model):
    return sd.quantize(digits_model, digits.train[0][:64])


@pytest.fixture(scope="session")
def digits_program(digits_quantised):
    return sd.compile(digits_quantised, name="digits")
