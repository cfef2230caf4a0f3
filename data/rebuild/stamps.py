"""Compute data/studies/squeezenet_stamps: every unit of SqueezeNet's last layer but one, on photographs of 150 objects.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb STAMPS
    python data/rebuild/stamps.py STAMPS

The study holds numbers alone: the pictures are under the GPL and stay out of it, thumbnails included.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import unitlab
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.recipes import RECIPES
from unitlab.store.study import open_group
from unitlab.store.writing import write_study

BY_CLASS = ("class_activation", "class_correlation", "first_order_margin_drop")
NAME = "squeezenet_stamps"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    files = RecipeFiles(RECIPES[NAME], images=sys.argv[1])
    model, images = files.model(), replace(files.images(), thumbnails=False)
    store = Path(__file__).parents[1] / "studies" / f"{NAME}.zarr"
    unitlab.ablate(model, images, RECIPES[NAME].layers[0], store=store, attrs=files.attrs(), device="cpu")
    round_by_class(store)


def round_by_class(store: Path) -> None:
    """Keep what is known of a thousand classes to float16's eleven significant bits: half the bytes on disk."""
    layer = RECIPES[NAME].layers[0]
    groups = {}
    for key in ("", layer, f"{layer}/zero"):
        group = open_group(store, key)
        own = [name for name in group.variables if not key or name not in ("category", "category_index", "image")]
        arrays = {str(name): group[name].values for name in own}
        arrays |= {name: arrays[name].astype(np.float16).astype(np.float32) for name in BY_CLASS if name in arrays}
        groups[key] = arrays, group.attrs
    rounded = store.with_name(f"rounded-{store.name}")
    write_study(rounded, groups)
    shutil.rmtree(store)
    rounded.rename(store)


if __name__ == "__main__":
    main()
