"""Counts of overlap, and of every shuffle of the label images, are those of plain numpy; shuffles keep clusters and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from unitlab.concepts.overlap import Overlaps, StoredLabels, detectors, shuffles_of_labels

N, UNITS, CONCEPTS = 18, 3, 4
CATEGORY = np.array([0, 0, 1, 2])


@pytest.fixture
def labels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Label images of two sizes, with no, one or two planes, some with a label of the whole image."""
    random, found = np.random.default_rng(0), []
    for image in range(N):
        size = (5, 6) if image % 6 < 3 else (4, 4)
        planes = random.integers(0, 4, (image % 3, *size)).astype(np.uint16)
        found.append((planes, np.array([4] if image % 5 == 0 else [], np.int64)))
    return found


@pytest.mark.parametrize("cluster", [None, np.arange(N) // 3])
def test_counts_of_every_shuffle_are_those_of_numpy(labels: list, cluster: np.ndarray | None) -> None:
    random = np.random.default_rng(1)
    masks = [random.random((UNITS, *planes.shape[1:])) < 0.3 for planes, _ in labels]
    with StoredLabels() as stored:
        for one in labels:
            stored.append(one)
        stored.finish()
        deals = shuffles_of_labels(stored.sizes, cluster, 30, seed=0)
        counts = Overlaps(stored, CATEGORY, UNITS, deals)
        for images in np.array_split(np.arange(N), 4):
            for size in {stored.sizes[image] for image in images}:
                some = np.array([image for image in images if stored.sizes[image] == size])
                image, unit, pixel = np.nonzero(np.stack([masks[i] for i in some]).reshape(len(some), UNITS, -1))
                counts.add(some, image, unit, pixel)
    assert (deals[0] == np.arange(N)).all() and len({tuple(deal) for deal in deals}) > 15
    for shuffle, deal in enumerate(deals):
        assert sorted(deal) == list(range(N))
        assert all(stored.sizes[image] == stored.sizes[other] for image, other in enumerate(deal))
        if cluster is not None:
            # three images go to three images of one cluster, in their order
            assert (cluster[deal].reshape(-1, 3).std(1) == 0).all() and (np.diff(deal.reshape(-1, 3)) == 1).all()
        both, seen = np.zeros((UNITS, CONCEPTS)), np.zeros((UNITS, 3))
        for image, other in enumerate(deal):
            planes, whole = labels[other]
            for concept in range(CONCEPTS):
                both[:, concept] += (masks[image][:, None] & (planes == concept + 1)).sum((1, 2, 3))
                both[:, concept] += masks[image].sum((1, 2)) * (concept + 1 in whole)
            present = {CATEGORY[label - 1] for label in [*np.unique(planes[planes > 0]), *whole]}
            seen[:, sorted(present)] += masks[image].sum((1, 2))[:, None]
        np.testing.assert_array_equal(counts.intersection[shuffle], both)
        np.testing.assert_array_equal(counts.activated[shuffle], seen)
        pixels = np.zeros(CONCEPTS)
        for planes, whole in labels:
            for concept in range(CONCEPTS):
                pixels[concept] += (planes == concept + 1).sum() + np.prod(planes.shape[1:]) * (concept + 1 in whole)
        area = sum(mask.sum((1, 2)) for mask in masks)
        np.testing.assert_allclose(counts.iou(restricted=True)[shuffle], both / (seen[:, CATEGORY] + pixels - both))
        np.testing.assert_allclose(counts.iou(restricted=False)[shuffle], both / (area[:, None] + pixels - both))


def test_detectors_by_both_rules() -> None:
    """Of 19 shuffles the largest counts 5 %: it is the limit, and p is the rank among twenty."""
    iou = np.array([[0.5, 0.1], [0.03, 0.05], [np.nan, 0.0], [0.2, 0.3]])
    names, categories = np.array(["sky", "red"], dtype=object), np.array(["object", "color"], dtype=object)
    found = detectors(iou, np.linspace(0.02, 0.2, 19), names, categories, strictly=False)
    assert found["iou_threshold"] == np.linspace(0.02, 0.2, 19)[18] and found["is_detector"].tolist() == [
        True,
        False,
        False,
        True,
    ]
    assert found["best_iou_concept"].tolist() == ["sky", "red", "", "red"]
    assert found["best_iou_p"].tolist() == [1 / 20, 17 / 20, 1, 1 / 20]
    assert found["is_netdissect_detector"].tolist() == [True, True, False, True]
    assert found["detector_category"].tolist() == ["color", "object"]
    assert found["n_detectors"].tolist() == [[1, 1], [2, 1]] and found["n_unique_detectors"].tolist() == [[1, 1], [1, 1]]
    at_limit = np.array([[0.04, 0.0]])
    for strictly in (False, True):
        one = detectors(at_limit, np.zeros(0), names, categories, strictly=strictly)
        assert one["is_netdissect_detector"].tolist() == [not strictly] and np.isnan(one["iou_threshold"])
        assert np.isnan(one["best_iou_p"]).all() and not one["is_detector"].any()
