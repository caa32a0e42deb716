"""Makes the two networks of `sordino demo`: trained with seed 0, weights rounded to half precision, figures measured after that.

    python benchmarks/demo_networks.py

It takes some minutes. Another processor comes to other weights, so the files are made once and kept in the repository.
"""

import dataclasses
import json

import torch
from safetensors.torch import save_file

from sordino.experiments.demo import METHOD, NETWORKS
from sordino.experiments.tasks import DIGITS, Trained, load_checkpoint, train_task
from sordino.nn import density
from sordino.train import accuracy


def rounded(trained: Trained) -> Trained:
    """The network with weights that half precision holds, and its figures."""
    model, data = trained.model, DIGITS.data()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    counts = density(model, data.test[0])
    nonzero, size = (sum(n[i] for n in counts.values()) for i in (0, 1))
    return dataclasses.replace(
        trained,
        validation_accuracy=accuracy(model, data.validation),
        test_accuracy=accuracy(model, data.test),
        density=nonzero / size,
        nonzero=nonzero / len(data.test[0]),
    )


def main() -> None:
    plain = train_task(DIGITS, "relu")
    sparse = train_task(DIGITS, METHOD, plain=plain.model)
    NETWORKS.mkdir(exist_ok=True)
    for trained in map(rounded, (plain, sparse)):
        path = NETWORKS / f"{trained.method}.safetensors"
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in trained.model.state_dict().items()}
        save_file(tensors, path, {"sordino": json.dumps(trained.figures())})
        print(
            f"{path}: accuracy {load_checkpoint(path).test_accuracy:.2%}, density {trained.density:.1%}, {path.stat().st_size:,} bytes"
        )


if __name__ == "__main__":
    main()
