"""What is bundled: whole, small, free of repetition, and licensed."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest

import unitlab
from unitlab.bundled_images import bundled_images
from unitlab.concepts.basic_colours import nearest_colours
from unitlab.files import bundled_folder

DATA = bundled_folder()


@pytest.fixture(scope="module")
def emoji():
    with zipfile.ZipFile(DATA / "images" / "emoji.zip") as archive:
        return archive.namelist(), json.loads(archive.read("index.json"))


def test_the_zip_stays_in_its_folder_and_is_listed_whole(emoji):
    names, index = emoji
    for name in names:
        path = PurePosixPath(name)
        assert not path.is_absolute() and ".." not in path.parts and "\\" not in name
    assert sorted(names) == sorted([entry for entry, _ in index["images"]] + ["index.json"])
    assert len(set(names)) == len(names)


def test_emoji_classes_and_counts(emoji):
    _, index = emoji
    counts = Counter(entry.partition("/")[0] for entry, _ in index["images"])
    assert sorted(counts) == index["categories"] == sorted(index["categories"])
    assert len(counts) == 60
    assert np.mean(list(counts.values())) >= 40 and min(counts.values()) >= 20


def test_emoji_images_are_64_square_and_all_different():
    found = bundled_images("emoji")
    assert found.pixels.shape == (len(found.ids), 64, 64, 3) and found.pixels.dtype == np.uint8
    assert len({hashlib.sha256(picture.tobytes()).hexdigest() for picture in found.pixels}) == len(found.ids)
    # drawn on white, two pixels free all around
    for edge in (found.pixels[:, :2], found.pixels[:, -2:], found.pixels[:, :, :2], found.pixels[:, :, -2:]):
        assert (edge == 255).all()


def test_single_pictures_are_those_of_the_whole():
    bundled_images.cache_clear()
    found, some = bundled_images("emoji"), np.array([4000, 7, 7, 3])
    few = found.pictures[some]
    assert found.pictures.decoded.sum() == 3
    np.testing.assert_array_equal(few, found.pixels[some])
    np.testing.assert_array_equal(found.pictures[np.arange(len(found.ids)) % 2 == 1], found.pixels[1::2])


def test_fashion_mnist_is_the_published_test_set():
    found = bundled_images("fashion_mnist")
    digest = hashlib.sha256(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10_000, 28, 28)) + found.pixels.tobytes())
    assert digest.hexdigest() == "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    assert np.bincount(found.labels).tolist() == [1000] * 10


def test_sources_and_licences_are_stated():
    text = (DATA / "README.md").read_text(encoding="utf-8")
    script = DATA / "rebuild" / "emoji.py"
    if script.is_file():
        for package, version in re.findall(r'"(@?[\w/-]+)@(\d[\w.]*)"', script.read_text(encoding="utf-8")):
            assert f"{package} {version}" in text
    assert "rendered to 64×64, cropped" in text
    begins = {
        "Apache-2.0": "Apache License",
        "MIT": "MIT License",
        "CC-BY-4.0": "Attribution 4.0 International",
        "SqueezeNet": "SqueezeNet 1.1",
    }
    for licence, title in begins.items():
        whole = (DATA / "licenses" / f"{licence}.txt").read_text(encoding="utf-8")
        assert whole.strip().startswith(title) and licence in text
        assert len(whole) > 1000


def test_images_and_weights_are_small():
    files = [path for part in ("images", "weights") for path in (DATA / part).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 26e6


@pytest.mark.parametrize("procedure", ["2017", "2020"])
def test_the_dissection_is_of_the_bundled_network_and_images(procedure):
    found, study = unitlab.concepts.bundled_dissection("vgg_emoji", procedure), unitlab.load("vgg_emoji")
    for name in ("fingerprint_weights", "fingerprint_images", "fingerprint_pixels", "layer", "site"):
        assert found.attrs[name] == study.attrs[name]
    np.testing.assert_allclose(found.iou, found.intersection / (found.activated + found.labelled - found.intersection))
    colours = nearest_colours(bundled_images("emoji").pixels[:, ::2, ::2])
    np.testing.assert_array_equal(found.labelled[:11], np.bincount(colours.ravel(), minlength=11))
    if procedure == "2017":
        # 0.5 % of 4,428 × 16 positions, of which a study keeps those of the top images, in 16 bits
        above = (study.top_map.values > found.activation_threshold.values[:, None, None, None]).sum((1, 2, 3))
        assert above.max() <= 354 and above.min() > 20
    assert found.attrs["share_error"] == 0 and found.sizes["shuffle"] == 199
    assert float(found.iou_threshold) == np.sort(found.iou_null)[189]
    with pytest.raises(
        unitlab.UnitlabError, match=r"no dissection of 'vgg_emojis-2017' is bundled\. Did you mean 'vgg_emoji-2017'"
    ):
        unitlab.concepts.bundled_dissection("vgg_emojis")
