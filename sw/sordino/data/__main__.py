"""`python -m sordino.data`: how much of the video task repeats the frame before; what `docs/reference/data.md` quotes."""

import sys
from dataclasses import asdict
from pathlib import Path

import click
import torch
from PIL import Image
from rich.console import Console

from sordino_hw.spec.errors import InputError, SordinoError
from sordino_hw.spec.files import replacing

from ..report.jsonfile import write_json
from ..table import Table
from .video import CAMERAS, redundancy, render, scenes


@click.command()
@click.option("--clips", default=450, show_default=True, help="Test clips measured.")
@click.option("--frames", default=8, show_default=True, help="Frames of a clip.")
@click.option("--size", default=32, show_default=True, help="Pixels of a frame's side.")
@click.option("--channels", default=1, show_default=True, help="1 (luminance) or 3 (RGB).")
@click.option("--noise", default=0.02, show_default=True, help="Standard deviation of the sensor's noise at white.")
@click.option("--seed", default=0, show_default=True, help="Seed of the task.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write an image of the first clips, one a row: static, then moving.")
def app(
    clips: int, frames: int, size: int, channels: int, noise: float, seed: int, json_file: Path | None, sheet: Path | None
) -> None:
    """Measures the temporal redundancy of the video task, with a static and with a moving camera."""
    settings = {"clips": clips, "frames": frames, "size": size, "channels": channels, "noise": noise, "seed": seed}
    try:
        drawn = {c: scenes("test", clips, camera=c, frames=frames, seed=seed) for c in CAMERAS}
        films = {c: render(s, size=size, channels=channels, noise=noise) for c, s in drawn.items()}
        figures = {c: redundancy(x) for c, x in films.items()}
        if json_file:
            measured = {c: [asdict(r) for r in figures[c]] for c in CAMERAS}
            write_json(json_file, "data", {"settings": settings, "redundancy": measured})
        if sheet:
            _draw(torch.cat([film[:8] for film in films.values()]), sheet)
    except SordinoError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    table = Table("step (of 255)", *(f"{c}: {what}" for c in CAMERAS for what in ("changed", "events")))
    for rows in zip(*figures.values(), strict=True):
        table.add_row(str(rows[0].step), *(f"{v:.1%}" for r in rows for v in (r.changed, r.events)))
    Console().print(table)


def _draw(clips: torch.Tensor, path: Path) -> None:
    """Clips [n, t, c, h, w] as a PNG of n rows and t columns."""
    n, t, c, h, w = clips.shape
    pixels = (clips.permute(0, 3, 1, 4, 2).reshape(n * h, t * w, c) * 255).round().byte().numpy()
    with replacing(path, InputError) as temporary:
        Image.fromarray(pixels.squeeze(-1) if c == 1 else pixels).save(temporary, "PNG")


if __name__ == "__main__":
    app()
