"""Reports in a real browser: nothing wider than the window, and what matters in sight, on a desktop, a small screen and a phone."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from sordino.cli import app
from sordino.report import render

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
WIDTHS = (1300, 800, 390)

PROBE = """<!doctype html><body>%s<pre id="out"></pre><script>
onload = () => { document.getElementById("out").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(f => {
  const d = f.contentDocument, key = [...d.querySelectorAll("thead th")].find(e => e.textContent === "\u03b7");
  const small = [...d.querySelectorAll("p, td, th, .card")].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length;
  return {page: f.name, width: f.clientWidth, scroll: d.documentElement.scrollWidth, small: small,
          eta: key ? key.getBoundingClientRect().right : 0, plots: [...d.querySelectorAll("svg")].map(s => s.clientHeight)};
})); };
</script></body>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, digits_program):
    """Pages of the commands, by name."""
    here = tmp_path_factory.mktemp("report")
    digits_program.save(here / "digits.sdn")
    np.save(here / "x.npy", np.random.default_rng(0).random((2, 1, 8, 8), np.float32))
    (here / "net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Conv2d(40, 8, 3), nn.Flatten(), nn.Linear(128, 4))\n"
        "def large():\n    return nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3, stride=4))\n"
    )
    commands = {
        "run": ["run", here / "digits.sdn", here / "x.npy", "--backend", "timing"],
        "golden": ["run", here / "digits.sdn", here / "x.npy"],
        "check": ["check", f"{here / 'net.py'}:net", "-e", "1,1,8,8"],
        "refused": ["check", f"{here / 'net.py'}:large", "-e", "1,1,64,64", "--arch", "icebreaker"],
        "compile": ["compile", f"{here / 'net.py'}:net", "--random-weights", "-c", here / "x.npy", "-o", here / "net.sdn"],
        "layer": ["bench", "layer", "--backend", "timing", "--size", 6],
        "archs": ["arch", "list"],
        "doctor": ["doctor"],
    }
    made = {}
    for name, arguments in commands.items():
        file = here / f"{name}.json"
        result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json", file)])
        assert file.exists(), result.output
        made[name] = render(json.loads(file.read_text()))
    return made


def test_pages_are_self_contained(pages):
    for page in pages.values():
        assert not re.findall(r"https?:|//[a-z]|<script|<link|<img|@import|url\((?!#)", page)


def test_what_the_pages_say(pages):
    assert "Roofline" in pages["run"] and "frames/s" in pages["run"] and "compute only" in pages["run"]
    assert "Roofline" not in pages["golden"]
    assert "costs most" in pages["check"] and "Activation memory" in pages["check"]
    assert "does not compile" in pages["refused"] and "that is why it does not fit" in pages["refused"]
    assert "The weights are random" in pages["compile"]
    assert "Utilisation" in pages["layer"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_pages_are_readable_at_every_width(pages, tmp_path):
    frames = [
        f'<iframe name="{name}" style="border:0" width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    ]
    (tmp_path / "probe.html").write_text(PROBE % "".join(frames))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    found = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert len(found) == len(frames)
    for f in found:
        assert f["scroll"] <= f["width"], f  # tables and plots scroll by themselves, the page does not
        assert f["eta"] <= f["width"] and not f["small"], f
        assert all(height > 60 for height in f["plots"]), f
    assert {f["page"] for f in found if f["eta"]} == {"run", "layer"}
