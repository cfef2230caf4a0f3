"""Compute data/studies/squeezenet_stamps: every unit of SqueezeNet's last layer but one, on photographs of 150 objects.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb STAMPS
    python data/rebuild/stamps.py STAMPS

The study holds numbers alone: the pictures are under the GPL and stay out of it, thumbnails included.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import unitlab
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.recipes import RECIPES

NAME = "squeezenet_stamps"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    files = RecipeFiles(RECIPES[NAME], images=sys.argv[1])
    model, images = files.model(), replace(files.images(), thumbnails=False)
    store = Path(__file__).parents[1] / "studies" / f"{NAME}.zarr"
    unitlab.ablate(model, images, RECIPES[NAME].layers[0], store=store, attrs=files.attrs(), device="cpu")


if __name__ == "__main__":
    main()
