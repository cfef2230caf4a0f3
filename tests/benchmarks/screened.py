"""Screened sweeps against exact ones of the same images in one run, layer by layer: what is evaluated, missed, and saved.

python tests/benchmarks/screened.py vgg_emoji --images 1000 --layer conv3_1 --layer conv4_1
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

import unitlab
from unitlab import catalog
from unitlab.compute.engine.host_copies import Steps, finished
from unitlab.compute.engine.scores import Rivals
from unitlab.compute.engine.suffix import SuffixEngine
from unitlab.compute.files.recipe_files import RecipeFiles

spent: dict[str, float] = defaultdict(float)


def timed(kind: type, name: str, key: Callable[..., str]) -> None:
    """From now on ``spent`` has the processor's time of a method."""
    method = getattr(kind, name)

    def run(*given: Any, **named: Any) -> Any:
        begin = time.process_time()
        try:
            found = method(*given, **named)
            return in_one_step(finished(found)) if isinstance(found, Generator) else found
        finally:
            spent[key(*given)] += time.process_time() - begin

    setattr(kind, name, run)


def in_one_step(value: Any) -> Steps[Any]:
    yield from ()
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a study's name")
    parser.add_argument("--images", type=int, help="so many, spread over all (default: all)")
    parser.add_argument("--layer", action="append", help="layer (default: every convolution)")
    parser.add_argument("--screen", type=float, default=0.01)
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = RecipeFiles(catalog.recipe(given.name))
    model, images = files.model(), files.images()
    if given.images:
        images = images.subset(np.unique(np.linspace(0, len(images) - 1, given.images).round().astype(int)))
    timed(SuffixEngine, "steps", lambda engine, *_: engine.site.name)
    timed(SuffixEngine, "screened", lambda engine, *_: engine.site.name)
    timed(Rivals, "of", lambda *_: "gradients")
    taken = []
    for screen in (None, given.screen):
        spent.clear()
        begin = time.process_time()
        found = unitlab.ablate(model, images, given.layer or ["all"], screen=screen, device="cpu", progress=False)
        taken.append((found, dict(spent), time.process_time() - begin))
    (exact, exact_time, exact_all), (screened, screened_time, screened_all) = taken
    places = [name for name in exact_time if name != "gradients"]
    print(f"{given.name}, {len(images)} images, screen={given.screen}; processor seconds")
    print(
        f"{'layer':<24} {'units':>5} {'flips':>7} {'evaluated':>9} {'missed at most':>14} {'missed':>7} {'attempts':>8} ratio"
    )
    for place, layer in zip(places, exact, strict=True):
        before, now = exact[layer], screened[layer]
        truth = before.prediction.values != before.baseline_prediction.values
        row = f"{layer:<24} {before.sizes['unit']:>5} {truth.mean():>7.2%}"
        ratio = exact_time[place] / screened_time[place]
        if "evaluated" not in now:
            print(f"{row} {'exact: ' + now.attrs['screen_exact']:>41} {exact_time[place]:>8.2f} s {ratio:.1f}")
            continue
        kept = now.evaluated.values > 0
        differ = (now.prediction.values != before.prediction.values)[kept].sum()
        missed = (truth & ~kept).sum() / truth.sum()
        print(
            f"{row} {now.attrs['screen_evaluated_share']:>9.1%} {now.attrs['screen_missed_share_limit']:>14.2%} {missed:>7.2%} "
            f"{now.attrs['screen_attempts']:>8} {exact_time[place]:>8.2f} s {ratio:.1f}"
            + (f"  {differ} evaluated pairs differ" if differ else "")
        )
    print(
        f"all: exact {exact_all:.1f} s, screened {screened_all:.1f} s (gradients {screened_time.get('gradients', 0):.1f}), "
        f"ratio {exact_all / screened_all:.2f}"
    )


if __name__ == "__main__":
    main()
