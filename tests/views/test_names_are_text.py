"""Names from a store are text, whatever they hold."""

from __future__ import annotations

import numpy as np
from simulated_study import simulated_study

from unitlab.views.gallery import top_images

SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_a_gallery_shows_scripts_as_text() -> None:
    study = simulated_study(4, 3, 60)
    names = np.array([f"{SCRIPT}{index}" for index in range(3)], object)
    ids = np.array([f"{SCRIPT}{index}" for index in range(60)], object)
    if "thumbnails" not in study:
        study["thumbnails"] = (("image", "y", "x", "rgb"), np.zeros((60, 8, 8, 3), np.uint8))
    page = top_images(study.assign_coords(category=names, image=ids), 1)._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script" not in page and page.count("<img ") == page.count("</figure>") and 'x onerror=alert(2)>"' not in page
