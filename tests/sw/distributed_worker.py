"""What the processes of test_distributed.py run: `python -m torch.distributed.run ... distributed_worker.py FOLDER`.

Also imported by the test, which trains the same in one process.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import sordino as sd
from sordino.train import Epoch, History, accuracy, fit, is_main

METHODS: dict[str, dict] = {
    "relu": {},
    "l1": {"strength": 1e-2},
    "hoyer": {"strength": 1e-3},
    "transformed-l1": {"strength": 1e-2},
    "arts": {"strength": 1e-3, "rate": 0.2},
    "star": {"strength": 1e-2},
    "fatrelu": {},
    "channel-thresholds": {"strength": 1e-4},
    "dal": {"sp_rate": 1e-2},
    "cats": {"temporal": 1e-3},
    "wta": {"every": 2},
}


def clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 1, 6, 6, generator=g, dtype=torch.double)
    return x, torch.randint(0, 4, (count,), generator=g)


TRAIN, VALIDATION = clips(49, 0), clips(20, 1)
"""Batches of 16: the last has one clip, so that the second of two processes has none."""

MORE = clips(55, 2)
"""The last batch has seven: shares of four and three."""


def network(method: str, **options) -> nn.Module:
    """A network of frames without batch norm or dropout, which are not linear in the batch; from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).double()
    return sd.nn.Clips(sd.sparsify(model, method, calibration=TRAIN[0].flatten(0, 1), **options).double())


def normed() -> nn.Module:
    """With batch norm and dropout: not what one process would come to, but equal in all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = (nn.Flatten(), nn.Linear(108, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
        return sd.sparsify(nn.Sequential(*layers).double(), "wta", rate=0.5)


def noise(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def train(model: nn.Module, epochs: int = 2, data=TRAIN, **options) -> History:
    options = {"lr": 1e-2, "batch_size": 16, "progress": False, **options}
    return fit(model, data, VALIDATION, epochs, **options)


class Stop:
    """A hook that interrupts, in every process, before an epoch."""

    def __init__(self, epoch: int | None):
        self.epoch = epoch

    def __call__(self, model: nn.Module, epoch: int) -> None:
        if epoch == self.epoch:
            raise KeyboardInterrupt

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, model: nn.Module, state: dict) -> None:
        pass


def keep(folder: Path, name: str, model: nn.Module, history: History) -> None:
    rank = torch.distributed.get_rank()
    epochs = [{k: v for k, v in vars(e).items() if k != "seconds"} for e in history.epochs]
    torch.save({"model": model.state_dict(), "epochs": epochs, "best": history.best}, folder / f"{name}.{rank}.pt")


def read(folder: Path, name: str, rank: int) -> tuple[dict, History]:
    found = torch.load(folder / f"{name}.{rank}.pt", weights_only=True)
    return found["model"], History([Epoch(**e) for e in found["epochs"]], found["best"])


def main(folder: Path) -> None:
    for method, options in METHODS.items():
        model = network(method, **options)
        if method == "l1" and not is_main():  # the first process's weights hold
            with torch.no_grad():
                model.model[0].weight += 1
        keep(folder, method, model, train(model))
    model = normed()
    keep(folder, "normed", model, train(model, 4, MORE, augment=noise, metrics=folder / "metrics"))
    for epoch in (2, None):
        model = normed()
        try:
            keep(
                folder,
                "resumed",
                model,
                train(model, 4, MORE, augment=noise, checkpoint=folder / "state", before_epoch=Stop(epoch)),
            )
        except KeyboardInterrupt:
            assert epoch == 2
    model = network("l1", strength=1.0)
    keep(folder, "stopped", model, train(model, 9, budget=1.1, patience=2))
    hook = sd.CostWeights(TRAIN[0][:4, 0].float(), "fanout")
    single = sd.sparsify(network("l1").model.float(), "l1")
    frames = TRAIN[0][:, 0].float(), TRAIN[1]
    keep(folder, "hooked", single, fit(single, frames, frames, 1, batch_size=16, before_epoch=hook, progress=False))
    try:
        train(normed(), 5, MORE, augment=noise, checkpoint=folder / "state", before_epoch=Stop(None))
    except sd.InputError as error:
        (folder / f"error.{torch.distributed.get_rank()}").write_text(str(error))
    print(f"accuracy {accuracy(model, VALIDATION):.6f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
