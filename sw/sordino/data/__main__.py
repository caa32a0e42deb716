"""`python -m sordino.data`: how much of the video task repeats the frame before; what `docs/reference/data.md` quotes."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from sordino_hw.spec.errors import InputError, SordinoError
from sordino_hw.spec.files import replacing

from ..report.jsonfile import write_json
from .video import CAMERAS, redundancy, render, scenes

app = typer.Typer(add_completion=False)


@app.command()
def measure(
    clips: Annotated[int, typer.Option(help="Test clips measured.")] = 450,
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 8,
    size: Annotated[int, typer.Option(help="Pixels of a frame's side.")] = 32,
    channels: Annotated[int, typer.Option(help="1 (luminance) or 3 (RGB).")] = 1,
    noise: Annotated[float, typer.Option(help="Standard deviation of the sensor's noise at white.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the task.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write an image of the first clips, one a row: static, then moving.")] = None,
):
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
        raise typer.Exit(2) from error
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
