"""Figures as files for papers and slides: SVG, PNG and PDF, drawn by Bokeh's own script in a browser without a window."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import holoviews as hv
from bokeh.embed import file_html
from bokeh.model import Model
from bokeh.resources import INLINE

from unitlab.errors import UnitlabError, what_it_says, write_failure
from unitlab.files import write_whole
from unitlab.views.top_images import Gallery

KINDS = (".svg", ".png", ".pdf")
BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe", r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)  # fmt: skip
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
LONGEST = 120  # seconds that a browser may take
# what a page has to say is its only content
TELL = "text => { document.documentElement.innerHTML = ''; document.documentElement.dataset.told = encodeURIComponent(text); }"
SVG = f"""<script>
const tell = {TELL};
const waiting = setInterval(() => {{
  if (!window.Bokeh?.documents[0]?.is_idle) return;
  clearInterval(waiting);
  tell(Bokeh.index.roots[0].export("svg").ctx.get_serialized_svg(true));
}}, 20);
</script>"""
PNG = f"""<script>
const tell = {TELL}, svg = SVG_TEXT, scale = SCALE, image = new Image();
image.onload = () => {{
  const canvas = document.createElement("canvas"), ink = canvas.getContext("2d");
  [canvas.width, canvas.height] = [image.width * scale, image.height * scale];
  ink.fillStyle = "white";
  ink.fillRect(0, 0, canvas.width, canvas.height);
  ink.drawImage(image, 0, 0, canvas.width, canvas.height);
  tell(canvas.toDataURL("image/png"));
}};
image.src = "data:image/svg+xml," + encodeURIComponent(svg);
</script>"""


def save(figure: Any, path: str | Path, *, scale: float = 2) -> Path:
    """Write a figure of `unitlab.plots` as SVG, PNG or PDF, as the end of the path says.

    A browser draws it, without a window: Chromium, Chrome or Edge, found by its name or in the variable ``CHROMIUM``. Nothing
    else is needed, and nothing is fetched.

    Parameters
    ----------
    figure
        What a function of `unitlab.plots` returns, any other figure or layout of HoloViews, or a Bokeh figure.
    path
        ``figure.svg``, ``figure.png`` or ``figure.pdf``; an older file of that name is replaced.
    scale
        Pixels of a PNG for each pixel of the figure as a notebook shows it.

    Returns
    -------
    pathlib.Path
        The file. Its ground is white, whatever the notebook's theme.

    Raises
    ------
    UnitlabError
        No figure, another kind of file, no browser, or a folder that cannot be written.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab import plots
    >>> figure = plots.units(unitlab.load("vgg_fashion"))
    >>> plots.save(figure, "units.svg").name
    'units.svg'
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in KINDS:
        raise UnitlabError(f"the figure cannot be saved as {path.name!r}; give a name that ends in {', '.join(KINDS)}")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 20:
        raise UnitlabError(f"scale is {scale!r}; expected a number above 0, up to 20")
    model = None if isinstance(figure, Gallery) else _bokeh_model(figure)
    browser = _browser()
    try:
        # beside the file: a browser may be kept from the folder of temporary files
        with tempfile.TemporaryDirectory(prefix="unitlab-", dir=path.parent) as scratch:
            svg = figure.svg() if model is None else _told(browser, Path(scratch), _page(model))
            if path.suffix.lower() == ".svg":
                content = svg.encode()
            elif path.suffix.lower() == ".png":
                drawing = PNG.replace("SVG_TEXT", json.dumps(svg).replace("</", "<\\/")).replace("SCALE", str(scale))
                content = base64.b64decode(_told(browser, Path(scratch), drawing).partition(",")[2])
            else:
                content = _pdf(browser, Path(scratch), svg)
        write_whole(path, content)
    except OSError as error:
        raise write_failure(error, path) from error
    return path


def _bokeh_model(figure: Any) -> Any:
    if isinstance(figure, Model):
        return figure
    if not isinstance(figure, hv.core.Dimensioned):
        raise UnitlabError(
            f"plots.save takes a figure, as unitlab.plots.units(ds) returns it; given: {type(figure).__name__}. An explorer "
            "has its own exports under 'Take away', a report is unitlab.report(ds, path)"
        )
    return hv.render(figure, backend="bokeh")


def _page(model: Any) -> str:
    html: str = file_html(model, INLINE, title="", suppress_callback_warning=True)
    return html.replace("</body>", SVG + "</body>")


def _pdf(browser: str, scratch: Path, svg: str) -> bytes:
    width, height = (float(re.findall(rf'<svg[^>]* {side}="([\d.]+)', svg)[0]) for side in ("width", "height"))
    style = f"@page {{ size: {width}px {height}px; margin: 0 }} body {{ margin: 0 }} svg {{ display: block }}"
    _run(browser, scratch, f"<style>{style}</style>{svg}", "--no-pdf-header-footer", f"--print-to-pdf={scratch / 'figure.pdf'}")
    return (scratch / "figure.pdf").read_bytes()


def _told(browser: str, scratch: Path, page: str) -> str:
    """What the script of a page tells."""
    said = _run(browser, scratch, page, "--dump-dom", "--virtual-time-budget=30000")
    found = re.search(r'data-told="([^"]*)"', said)
    if found is None:
        raise UnitlabError(f"the browser {browser} has not drawn the figure; give another one in the variable CHROMIUM")
    return unquote(found[1])


def _run(browser: str, scratch: Path, page: str, *options: str) -> str:
    (scratch / "page.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{page}', encoding="utf-8")
    as_root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    profile = f"--user-data-dir={(scratch / 'profile').resolve()}"
    command = [browser, *FLAGS, *as_root, profile, *options, (scratch / "page.html").resolve().as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LONGEST, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise UnitlabError(
            f"the browser {browser} has not drawn the figure ({what_it_says(error)}); give another in the variable CHROMIUM"
        ) from error
    return done.stdout.decode("utf-8", "replace")


def _browser() -> str:
    given = os.environ.get("CHROMIUM")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"CHROMIUM names {given}, which is no program" if given else "none of them is found"
        raise UnitlabError(
            f"plots.save draws with Chromium, Chrome or Edge, and {missing}: install one (Debian: apt-get install chromium), "
            "or give its path in the variable CHROMIUM. In a notebook, the disk beside a figure saves a PNG without it"
        )
    return found
