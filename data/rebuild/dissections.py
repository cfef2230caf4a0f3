"""Dissect the default layer of bundled networks, by both procedures: colours and foreground, computed from the images.

    python data/rebuild/dissections.py [NAME …]             # default vgg_emoji

A minute or two each; written to data/dissections.
"""

from __future__ import annotations

import sys
from pathlib import Path

import unitlab
from unitlab.concepts.bundled_dissections import write_bundled_dissection

NAMES = ("vgg_emoji",)


def main() -> None:
    images = unitlab.images("emoji")
    concepts = [unitlab.concepts.colours(images), unitlab.concepts.foreground(images)]
    for name in sys.argv[1:] or NAMES:
        layer = unitlab.load(name).attrs["layer"]
        for procedure in ("2017", "2020"):
            found = unitlab.dissect(unitlab.network(name), images, layer, concepts, procedure=procedure)
            write_bundled_dissection(Path(__file__).parents[1] / "dissections", name, found)


if __name__ == "__main__":
    main()
