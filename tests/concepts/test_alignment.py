"""Alignment agrees with scikit-learn, with permutations drawn one by one, and finds what is planted; bad tables are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from planted_network import CLASSES, planted
from scipy import stats
from simulated_study import simulated_study
from sklearn.metrics import roc_auc_score

import unitlab
from unitlab.analysis.attributes import own_attributes
from unitlab.bundled_images import bundled_images
from unitlab.concepts.basic_colours import COLOURS
from unitlab.concepts.bundled_tags import colour_shares


def table_of(ds: xr.Dataset, seed: int = 0) -> pd.DataFrame:
    """Concepts that clusters share, that differ within clusters, and numbers of both kinds."""
    random, cluster = np.random.default_rng(seed), ds.cluster.values
    of_cluster = random.random(cluster.max() + 1)[cluster]
    n = len(cluster)
    return pd.DataFrame(
        {
            "shared": of_cluster < 0.4,
            "own": random.random(n) < 0.5,
            "size": of_cluster,
            "brightness": random.gamma(1.0, 1.0, n),
            "artist": np.array(["a", "b", "c"])[(3 * of_cluster).astype(int)],
        },
        index=ds.image.values,
    )


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(6, 3, 130, 2, clusters=60, dead_units=(3,))


@pytest.mark.parametrize("within_classes", [False, True])
def test_area_and_moments_are_those_of_others(study: xr.Dataset, within_classes: bool) -> None:
    """z against 1,500 permutations, drawn cluster by cluster (or image by image) in plain loops."""
    concepts = unitlab.concepts.tags(table_of(study))
    found = unitlab.align(study, concepts, within_classes=within_classes)
    live = [0, 1, 2, 4, 5]
    assert found.concept_auc.isel(unit=3).isnull().all() and found.concept_z.isel(unit=3).isnull().all()
    random, cluster, label = np.random.default_rng(1), study.cluster.values, study.label.values
    members = [np.flatnonzero(cluster == c) for c in range(60)]
    for name in found.concept.values:
        tag = concepts.tag.sel(concept=name).values
        is_number = bool(concepts.tag_is_number.sel(concept=name))
        assert is_number == (name in ("size", "brightness"))
        weight = stats.rankdata(tag) if is_number else tag
        if name in ("own", "brightness"):
            strata = [(np.flatnonzero((cluster == c) & (label == k))) for c in range(60) for k in range(3)]
            strata = [[np.array([i]) for i in images] for images in strata]
        else:
            kinds = {(len(m), int(label[m[0]]) if within_classes else 0) for m in members}
            strata = [[m for m in members if len(m) == size and (not within_classes or label[m[0]] == k)] for size, k in kinds]
        rank = stats.rankdata(study.activation_max.values, axis=1)
        drawn = []
        for _ in range(1500):
            other = weight.copy()
            for blocks in strata:
                for to, of in zip(blocks, random.permutation(len(blocks)), strict=True):
                    other[to] = weight[blocks[of]]
            drawn.append(rank[live] @ other)
        expected = (rank[live] @ weight - np.mean(drawn, 0)) / np.std(drawn, axis=0)
        np.testing.assert_allclose(found.concept_z.sel(concept=name).values[live], expected, atol=0.1, rtol=0.05)
        for u in live:
            values = study.activation_max.values[u]
            correlation = stats.spearmanr(values, tag).statistic
            assert float(found.concept_correlation.sel(concept=name)[u]) == pytest.approx(correlation)
            if is_number:
                assert np.isnan(found.concept_auc.sel(concept=name)[u])
            else:
                assert float(found.concept_auc.sel(concept=name)[u]) == pytest.approx(roc_auc_score(tag, values))
    p = found.concept_p.values
    q = stats.false_discovery_control(p[np.isfinite(p)])
    np.testing.assert_allclose(found.concept_q.values[np.isfinite(p)], q)
    np.testing.assert_allclose(p[live], 2 * stats.norm.sf(np.abs(found.concept_z.values[live])))


def test_without_clusters_and_ties_z_is_that_of_the_rank_sum_test() -> None:
    ds = simulated_study(4, 3, 200, 5).drop_vars("cluster", errors="ignore")
    values = np.random.default_rng(0).permuted(np.tile(np.arange(200.0), (4, 1)), axis=1)
    ds = ds.assign(activation_max=(("unit", "image"), values))
    tag = np.arange(200) % 5 == 0
    found = unitlab.align(ds, unitlab.concepts.tags(pd.DataFrame({"fifth": tag}, index=ds.image.values)))
    for u in range(4):
        expected = stats.mannwhitneyu(values[u][tag], values[u][~tag], method="asymptotic", use_continuity=False).pvalue
        assert float(found.concept_p[u, 0]) == pytest.approx(expected)
    assert found.n_exchanged.item() == 200 and found.n_tagged.item() == 40


def test_rarely_is_anything_found_where_nothing_is() -> None:
    """Activations and rare concepts by cluster, unrelated: any q ≤ 0.05 in about one table of twenty."""
    any_found = []
    for seed in range(40):
        ds = simulated_study(15, 4, 400, seed, clusters=220)
        random = np.random.default_rng(1000 + seed)
        skewed = random.gamma(0.3, 1.0, (15, 220))[:, ds.cluster.values] + 0.1 * random.random((15, 400))
        ds = ds.assign(activation_max=(("unit", "image"), skewed))
        rare = (random.random((220, 30)) < 0.08)[ds.cluster.values]
        table = pd.DataFrame(rare, index=ds.image.values, columns=[f"c{k}" for k in range(30)])
        found = unitlab.align(ds, unitlab.concepts.tags(table))
        assert found.attrs["n_tested"] > 300
        any_found.append(bool((found.concept_q <= 0.05).any()))
    assert np.mean(any_found) <= 0.15


def test_a_class_explains_a_concept_away_only_where_chance_keeps_the_class(study: xr.Dataset) -> None:
    ds = simulated_study(3, 4, 400, 8, clusters=300)
    random = np.random.default_rng(0)
    likely = np.array([0.8, 0.2, 0.2, 0.2])[ds.label.values]
    tag = (random.random(300)[ds.cluster.values]) < likely
    of_class = 3.0 * (ds.label.values == 0) + random.random(400)
    values = np.stack([of_class, of_class + 2 * tag, random.random(400)])
    ds = ds.assign(activation_max=(("unit", "image"), values))
    concepts = unitlab.concepts.tags(pd.DataFrame({"concept": tag}, index=ds.image.values))
    free, kept = (unitlab.align(ds, concepts, within_classes=within) for within in (False, True))
    assert (free.concept_q.values[:2, 0] < 0.001).all() and kept.concept_q.values[0, 0] > 0.05 > kept.concept_q.values[1, 0]
    assert kept.best_concept.values.tolist() == ["", "concept", ""]


def test_planted_units_answer_to_the_pattern_of_their_class() -> None:
    """Images show one of six patterns; every unit looks for one, and the best concept is that pattern's."""
    network, images, _, unit_class = planted(3)
    source = unitlab.images(images, categories=[f"class {k}" for k in range(CLASSES)])
    ds = unitlab.ablate(network, source, "relu", progress=False, device="cpu")
    random = np.random.default_rng(0)
    table = pd.DataFrame({"pattern": [f"{k}" for k in ds.label.values], "noise": random.random(len(ds.image)) < 0.3},
                         index=ds.image.values)  # fmt: skip
    found = unitlab.align(ds, unitlab.concepts.tags(table))
    assert found.best_concept.values.tolist() == [f"pattern: {k}" for k in unit_class]
    assert float(found.best_concept_auc.min()) > 0.9


def test_what_is_found_is_a_number_of_units(study: xr.Dataset) -> None:
    found = unitlab.align(study, unitlab.concepts.tags(table_of(study)))
    assert "best_concept_auc" in own_attributes(study.merge(found))


def test_bad_tables_are_refused(study: xr.Dataset) -> None:
    tags, table = unitlab.concepts.tags, table_of(study)
    with pytest.raises(unitlab.UnitlabError, match="given: list"):
        tags([1, 2])
    with pytest.raises(unitlab.UnitlabError, match="an empty one"):
        tags(table.iloc[:0])
    with pytest.raises(unitlab.UnitlabError, match="twice; each image has one row"):
        tags(table.set_axis(["a"] * len(table)))
    with pytest.raises(unitlab.UnitlabError, match="the concept 'own' twice"):
        tags(table.rename(columns={"shared": "own"}))
    with pytest.raises(unitlab.UnitlabError, match="'own' has no value for 'image-0003"):
        tags(table.assign(own=table.own.astype(object).where(np.arange(len(table)) != 3)))
    with pytest.raises(unitlab.UnitlabError, match="infinite"):
        tags(table.assign(size=np.inf))
    with pytest.raises(unitlab.UnitlabError, match="'own' is the same for all 130 images"):
        tags(table.assign(own=True))
    with pytest.raises(unitlab.UnitlabError, match=r"say nothing of 1 of the study's 130 images, such as 'image-0000"):
        unitlab.align(study, tags(table.iloc[1:]))
    with pytest.raises(unitlab.UnitlabError, match=r"what unitlab\.concepts\.tags"):
        unitlab.align(study, table)
    with pytest.raises(unitlab.UnitlabError, match="of is 'prediction'; align takes 'activation_max' or 'label_margin_drop'"):
        unitlab.align(study, tags(table), of="prediction")
    with pytest.raises(unitlab.UnitlabError, match="align takes a study"):
        unitlab.align(table, tags(table))
    with pytest.raises(unitlab.UnitlabError, match=r"no bundled concepts of 'emojis'\. Did you mean 'emoji'"):
        unitlab.concepts.bundled("emojis")


def test_the_images_that_the_loss_of_a_unit_harms() -> None:
    """The planted unit alone serves its class: its loss harms the images with that pattern, and no other unit's does more."""
    network, images, unit, unit_class = planted(5)
    source = unitlab.images(images, categories=[f"class {k}" for k in range(CLASSES)])
    ds = unitlab.ablate(network, source, "relu", progress=False, device="cpu")
    table = pd.DataFrame({"pattern": [f"{k}" for k in ds.label.values]}, index=ds.image.values)
    found = unitlab.align(ds, unitlab.concepts.tags(table), of="label_margin_drop")
    area = found.concept_auc.sel(concept=f"pattern: {unit_class[unit]}")
    assert found.best_concept.values[unit] == f"pattern: {unit_class[unit]}" and int(area.argmax("unit")) == unit
    drop = ds.label_margin_drop.values[unit].astype(float)
    assert float(area[unit]) == pytest.approx(roc_auc_score(ds.label.values == unit_class[unit], drop))


def test_units_in_several_parts_are_as_in_one(study: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    concepts = unitlab.concepts.tags(table_of(study))
    whole = unitlab.align(study, concepts)
    monkeypatch.setattr("unitlab.concepts.alignment.UNITS_AT_ONCE", 4)
    xr.testing.assert_allclose(unitlab.align(study, concepts), whole)


def test_rows_in_another_order_and_of_other_images_change_nothing(study: xr.Dataset) -> None:
    table = table_of(study)
    more = pd.concat([table.iloc[::-1], table.iloc[:5].set_axis([f"other {i}" for i in range(5)])])
    one, other = (unitlab.align(study, unitlab.concepts.tags(one)) for one in (table, more))
    xr.testing.assert_equal(one, other)


def test_bundled_concepts_are_of_every_image_of_the_bundled_studies() -> None:
    emoji = unitlab.concepts.bundled("emoji")
    of = dict(zip(emoji.concept.values, emoji.n_tagged.values, strict=True))
    assert (
        of["artist: google"] == of["set: noto"] + of["set: noto-v1"]
        and of["shaded"] == of["set: fluent"] + of["set: fluent-3d"]
    )
    assert of["subgroup: face-sleepy"] < of["subgroup: face-smiling"]  # merged into another class
    tag = emoji.tag.sel(image="heart/fluent-3d-1f9e1")
    assert tag.sel(concept="colour: orange") == 1 and tag.sel(concept="colour: green") == 0
    solid = np.tile(np.array([[10, 10, 10], [250, 140, 30], [255, 255, 255]], np.uint8)[:, None, None], (1, 8, 8, 1))
    solid[1, :, :6] = 255
    np.testing.assert_array_equal(colour_shares(solid).argmax(1)[:2], [0, list(COLOURS).index("orange")])
    np.testing.assert_array_equal(colour_shares(solid).sum(1), [1, 1, 0])
    assert tag.sel(concept="group: smileys-emotion") == 1 == tag.sel(concept="set: fluent-3d")
    assert set(emoji.image.values) >= set(unitlab.load("vgg_emoji").image.values)
    fashion = unitlab.concepts.bundled("fashion_mnist")
    assert fashion.tag.sel(concept="garment: footwear").values.sum() == 3000
    pixels = bundled_images("fashion_mnist").pixels[7, :, :, 0] / 255
    symmetry = np.corrcoef(pixels.ravel(), pixels[:, ::-1].ravel())[0, 1]
    assert float(fashion.tag.sel(concept="symmetry")[7]) == pytest.approx(symmetry)
    assert float(fashion.tag.sel(concept="brightness")[7]) == pytest.approx(pixels.mean())
