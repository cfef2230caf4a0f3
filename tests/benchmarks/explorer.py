"""How long the explorer takes to open and to answer a click, and what it adds to the kernel, on a study of Places365's size.

    python tests/benchmarks/explorer.py

512 units x 365 classes x 36,500 images with made-up predictions, the store on local disk, headless Chromium. A click counts
from ``pointerup`` in the page until the frame is painted in which everything above the fold has its new data.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from playwright.sync_api import sync_playwright

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "browser")]

from jupyter_server_process import jupyter_server  # noqa: E402
from notebook_page import NotebookPage, Shown  # noqa: E402
from simulated_study import simulated_groups  # noqa: E402

from unitlab.store.writing import write_study  # noqa: E402

CLICKS = 21
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
MEMORY = """for line in open('/proc/self/status'):
    if line.startswith(('VmRSS', 'VmHWM')): print(line.split()[0], int(line.split()[1]) // 1024, end=' MB  ')"""
RESIDENT = "__import__('gc').collect() * 0 + int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6"
CELLS = (
    MEMORY,
    "import unitlab\nexplorer = unitlab.explore({store!r})\nexplorer",
    MEMORY,
)
READY = """() => { const root = document.querySelector('.ul-host')?.shadowRoot; return !!root?.querySelector('circle.point')
  && !!root.querySelector('.ul-classes rect') && !!root.querySelector('.ul-images canvas'); }"""
MEASURED = """() => { const root = document.querySelector('.ul-host').shadowRoot;
  return !root.querySelector('.ul-units figcaption').textContent.includes('being computed'); }"""
# resolves to milliseconds when all that is above the fold shows another unit than before and its frame has been painted: a
# message that is sent before a frame is painted arrives after it. What is asked in every frame costs next to nothing, so that
# it does not slow down what it measures
CLICK = """
() => {
  const painted = (done) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = done; port2.postMessage(0); };
  const root = document.querySelector('.ul-host').shadowRoot, one = css => root.querySelector(css);
  const seen = () => ({
    headline: one('.ul-headline').textContent, images: one('.ul-images canvas').parentNode, unit: one('.ul-unit').value,
    table: one('.ul-table tbody tr'), bars: one('.ul-classes tbody tr'), mark: one('circle.mark'),
  });
  const before = seen();
  window.answered = new Promise((resolve) => {
    document.addEventListener('pointerup', () => {
      const start = performance.now();
      const look = () => {
        const now = seen();
        if (Object.keys(now).every((key) => now[key] !== before[key]))
          painted(() => resolve(performance.now() - start));
        else if (performance.now() - start > 5000)
          resolve(Object.keys(now).filter((key) => now[key] === before[key]).join(' ') + ' unchanged');
        else requestAnimationFrame(look);
      };
      look();
    }, {once: true, capture: true});
  });
}
"""
RERUNS = 15


def written_study(path: Path) -> None:
    """The made-up study, with thumbnails that JPEG does not find too easy."""
    groups = simulated_groups(512, 365, 36_500, seed=1, flip_rate=0.02, specific_unit=37, top=20, map_size=14)
    random = np.random.default_rng(0)
    root = groups[""][0]
    root["thumbnails"] = random.integers(0, 256, (36_500, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    root["category"] = np.array([f"class number {k}" for k in range(365)], dtype=object)
    write_study(path, groups)


def main(store: Path | None) -> None:
    scratch = Path(tempfile.mkdtemp())
    try:
        if store is None:
            store = scratch / "big.zarr"
            written_study(store)
        with jupyter_server(scratch) as server, sync_playwright() as playwright:
            cells = [nbformat.v4.new_code_cell(cell.replace("{store!r}", repr(str(store)))) for cell in CELLS]
            made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}})
            nbformat.write(made, server.folder / "benchmark.ipynb")
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.add_init_script(path=TESTS / "browser" / "notebook_page.js")
            notebook = NotebookPage(page, server.url, "benchmark.ipynb")
            page.evaluate("() => { window.start = performance.now() }")
            page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
            page.wait_for_function(READY, timeout=60_000)
            opening = page.evaluate("() => performance.now() - window.start")
            print(f"opening, kernel fresh, imports included: {opening / 1000:.2f} s")
            page.wait_for_function(MEASURED, timeout=300_000)
            complete = page.evaluate("() => performance.now() - window.start")
            print(f"tests and cross-fitted drops there: {complete / 1000:.2f} s")
            took = clicks(page)
            print(f"click: median {np.median(took):.0f} ms ({min(took):.0f} to {max(took):.0f}, {len(took)} clicks)")
            reruns(notebook)
            page.evaluate("() => { jupyterapp.commands.execute('notebook:run-cell') }")
            page.wait_for_function("() => notebookPage.ran()")
            for output in page.locator(".jp-OutputArea-output pre").all_inner_texts():
                print("kernel:", output)
            browser.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clicks(page) -> list[float]:
    """Milliseconds of each click on a point that lies alone."""
    shown, took = Shown(page), []
    for unit in shown.lonely(CLICKS, but=shown.unit):
        page.wait_for_timeout(500)
        across, down = shown.point(unit)
        page.mouse.move(across, down)
        page.wait_for_timeout(100)  # a hand points before it clicks
        page.evaluate(CLICK)
        page.mouse.click(across, down)
        answer = page.evaluate("() => window.answered")
        if isinstance(answer, str):
            print("no answer:", answer)
        else:
            took.append(answer)
    return took


def reruns(notebook: NotebookPage) -> None:
    """What runs of the explorer's cell add to the page and to the kernel, which keeps what each gave."""
    page = notebook.page
    protocol = page.context.new_cdp_session(page)

    def held() -> tuple[float, float]:
        protocol.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(1000)
        protocol.send("HeapProfiler.collectGarbage")
        heap = protocol.send("Runtime.getHeapUsage")["usedSize"]
        return heap / 1e6, float(notebook.value(RESIDENT))

    before = held()
    for _ in range(RERUNS):
        page.evaluate("() => { notebookPage.runAgain(1) }")
        page.wait_for_function("() => notebookPage.ran() && notebookPage.idle()", timeout=60_000)
        page.wait_for_function(READY, timeout=60_000)
    after = held()
    grown = [now - then for now, then in zip(after, before, strict=True)]
    print(f"{RERUNS} runs of the cell: page +{grown[0]:.1f} MB, kernel +{grown[1]:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
