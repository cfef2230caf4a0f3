"""Names from a store are text, whatever they hold."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_study import simulated_study

from unitlab.views.top_images import top_images
from unitlab.views.words import isolated

SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_a_gallery_shows_scripts_as_text() -> None:
    study = simulated_study(4, 3, 60)
    names = np.array([f"{SCRIPT}{index}" for index in range(3)], object)
    ids = np.array([f"{SCRIPT}{index}" for index in range(60)], object)
    if "thumbnails" not in study:
        study["thumbnails"] = (("image", "y", "x", "rgb"), np.zeros((60, 8, 8, 3), np.uint8))
    page = top_images(study.assign_coords(category=names, image=ids), 1).html()
    assert "&lt;script&gt;" in page
    assert "<script" not in page and page.count("<img ") == page.count("</figure>") and 'x onerror=alert(2)>"' not in page


@pytest.mark.parametrize("name", ["حديقة عامة", "\u202e turned round", "בית ספר 3"])
def test_a_name_from_the_right_stands_by_itself(name: str) -> None:
    assert isolated(name) == f"\u2068{name}\u2069"


@pytest.mark.parametrize("name", ["ski resort", "寺院の庭園", "Дворец", "ห้องสมุด", "a → b (3)"])
def test_a_name_from_the_left_is_left_as_it_is(name: str) -> None:
    assert isolated(name) == name
