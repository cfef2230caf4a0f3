"""Damage against independent computations, one cell at a time."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from simulated_study import simulated_study, study_of_predictions
from sklearn.metrics import balanced_accuracy_score, precision_score
from statsmodels.stats.contingency_tables import mcnemar

import unitlab
from unitlab.analysis.damage import ClusterCells, ImageCells, enough_images
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import bonett_price, discrete_benjamini_hochberg, mcnemar_p_values, sign_flip_p_values
from unitlab.analysis.splits import halves
from unitlab.schema import VARIABLES


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(14, 6, 400, 3, flip_rate=0.2, specific_unit=4, specific_category=2, dead_units=(7,))


def paired_counts(ds: xr.Dataset, unit: int, category: int) -> tuple[int, int]:
    of = ds.label.values == category
    before = ds.baseline_prediction.values[of] == category
    after = ds.prediction.values[unit, of] == category
    return int((before & ~after).sum()), int((~before & after).sum())


def flips_of(ds: xr.Dataset) -> np.ndarray:
    label = ds.label.values
    return (ds.baseline_prediction.values == label).astype(int) - (ds.prediction.values == label).astype(int)


def test_cells_agree_with_statsmodels_and_sklearn(study: xr.Dataset) -> None:
    found = unitlab.damage(study)
    for unit in range(study.sizes["unit"]):
        for category in range(study.sizes["category"]):
            cell = found.isel(unit=unit, category=category)
            broken, fixed = paired_counts(study, unit, category)
            expected = mcnemar([[0, broken], [fixed, 0]], exact=True).pvalue if broken + fixed else 1.0
            assert float(cell.p_value) == pytest.approx(expected, abs=1e-12)
            label = study.label.values == category
            before, after = study.baseline_prediction.values == category, study.prediction.values[unit] == category
            precision = precision_score(label, before) - precision_score(label, after)
            assert float(cell.precision_drop) == pytest.approx(precision, abs=1e-12)
            balanced = balanced_accuracy_score(label, before) - balanced_accuracy_score(label, after)
            assert float(cell.balanced_accuracy_drop) == pytest.approx(balanced, abs=1e-12)
            margins = study.label_margin_drop.values[unit, label].astype(float)
            assert float(cell.margin_drop) == pytest.approx(margins.mean(), abs=1e-9)
            if margins.any():
                test = stats.ttest_1samp(margins, 0)
                assert float(cell.margin_p_value) == pytest.approx(test.pvalue, rel=1e-6)
                interval = test.confidence_interval(0.95)
                assert [float(cell.margin_drop_low), float(cell.margin_drop_high)] == pytest.approx(list(interval), rel=1e-6)


def totals_of_signs(sums: tuple[int, ...]) -> list[int]:
    signs = np.array(list(product((-1, 1), repeat=len(sums)))).reshape(2 ** len(sums), len(sums))
    return np.abs(signs @ np.array(sums, int)).tolist()


def adjusted_by_hand(cells: list[tuple[tuple[int, ...], int]]) -> list[float]:
    """q of cells that are given as the sums that change and their total, one p and one cell at a time, in fractions."""
    totals = [totals_of_signs(sums) for sums, _ in cells]
    attainable = [{Fraction(sum(t >= reached for t in of), len(of)) for reached in set(of)} for of in totals]
    p = [Fraction(sum(t >= abs(total) for t in of), len(of)) for of, (_, total) in zip(totals, cells, strict=True)]
    order = sorted(range(len(p)), key=p.__getitem__)
    q, highest = [0.0] * len(p), 0.0
    for rank, cell in enumerate(order, start=1):
        odds = 0.0
        for chances in attainable:
            below = max((one for one in chances if one <= p[cell]), default=Fraction(0))
            odds += float(below / (1 - below)) if below < 1 else np.inf
        highest = max(highest, odds / rank)
        q[cell] = min(1.0, highest)
    return q


@pytest.mark.parametrize("seed", range(6))
def test_q_values_are_those_of_all_signs_gone_through(seed: int) -> None:
    """Single images and clusters; cells without changes, ties, and p-values that every cell attains."""
    random = np.random.default_rng(seed)
    largest = 1 if seed % 2 else 3
    sums = [tuple(random.integers(1, largest + 1, random.integers(0, 10)).tolist()) for _ in range(40)]
    biased = [random.choice([-1, 1], len(one), p=[0.05, 0.95] if random.random() < 0.5 else [0.5, 0.5]) for one in sums]
    cells = [(one, int((np.array(one, int) * signs).sum())) for one, signs in zip(sums, biased, strict=True)]
    counts = [tuple(one.count(size) for size in range(1, largest + 1)) for one in sums]
    p = [sign_flip_p_values(count)[abs(total)] for count, (_, total) in zip(counts, cells, strict=True)]
    expected = adjusted_by_hand(cells)
    assert 0.0 < min(expected) <= 0.05 < max(expected) == 1.0 and len(set(p)) < len(p)
    kinds = Counter(counts)
    some = np.array([[*p, np.nan]])
    found = discrete_benjamini_hochberg(some, [(sign_flip_p_values(one), count) for one, count in kinds.items()])
    np.testing.assert_allclose(found, [[*expected, np.nan]], rtol=1e-9)
    if largest == 1:
        # the same from the binomial distribution
        kinds = Counter(len(one) for one in sums)
        binomial = discrete_benjamini_hochberg(some, [(mcnemar_p_values(m), count) for m, count in kinds.items()])
        np.testing.assert_allclose(binomial, found, rtol=1e-9)


@pytest.mark.parametrize("clusters", [None, 60])
def test_damaged_cells_are_those_with_a_small_q(clusters: int | None) -> None:
    ds = simulated_study(6, 6, 180, 3, flip_rate=0.04, specific_unit=4, specific_category=2, clusters=clusters)
    found = unitlab.damage(ds)
    flips = flips_of(ds)
    group = np.arange(180) if clusters is None else ds.cluster.values
    cells = []
    for unit, category in np.ndindex(6, 6):
        of = ds.label.values == category
        changed = [int(flips[unit, of & (group == c)].sum()) for c in np.unique(group[of])]
        cells.append((tuple(abs(one) for one in changed if one), sum(changed)))
    np.testing.assert_allclose(found.q_value.values.ravel(), adjusted_by_hand(cells), rtol=1e-9)
    np.testing.assert_array_equal(found.damaged, (found.q_value <= 0.05) & (found.accuracy_drop > 0))
    assert found.damaged.values[4, 2] and found.n_damaged.values[4] >= 1
    np.testing.assert_array_equal(found.n_changed.values.ravel(), [len(sums) for sums, _ in cells])
    n_tested = sum(len(sums) >= 6 for sums, _ in cells)
    assert found.attrs["n_tested"] == n_tested < 18 and found.attrs["n_cells"] == 36
    what = "images" if clusters is None else "clusters of images"
    assert (
        f"Too few images: {n_tested} of 36 unit–class pairs can be tested; in the others fewer than 6 {what} change"
        in (found.attrs["tested"])
    )
    assert "More images of each class would help; margins" in found.attrs["tested"]
    least = np.minimum(np.exp2(1.0 - found.n_changed.values), 1)
    assert ((least <= 0.05) == (found.n_changed.values >= 6)).all() and (found.p_value.values >= least - 1e-12).all()


def test_what_can_be_tested_is_said_with_help_only_where_it_is_little() -> None:
    assert enough_images(36, 36) == "All 36 unit–class pairs can be tested: in each of them 6 images or more change."
    most, few = enough_images(2_000, 3_840), enough_images(16, 3_840)
    assert most.startswith("2,000 of 3,840 unit–class pairs") and "help" not in most
    assert few.startswith("Too few images: 16 of 3,840") and "q of the specific margin drop" in few


def test_nothing_is_found_where_nothing_changes() -> None:
    found = unitlab.damage(simulated_study(3, 4, 80, 0, flip_rate=0.0))
    assert (found.q_value == 1).all() and not found.damaged.any() and found.attrs["n_tested"] == 0


def test_unit_measures_follow_from_the_cells(study: xr.Dataset) -> None:
    found = unitlab.damage(study)
    drop = study.accuracy_drop.values
    np.testing.assert_array_equal(found.max_class_drop, drop.max(1))
    np.testing.assert_array_equal(found.max_class, drop.argmax(1))
    broken, fixed = study.n_broken.values, study.n_fixed.values
    m = broken + fixed
    z = (broken - fixed) / np.sqrt(m + 0.25)
    np.testing.assert_allclose(found.max_z, z.max(1))
    for unit in range(len(drop)):
        below = 1.0
        for changed in m[unit]:
            possible = [(2 * b - changed) / np.sqrt(changed + 0.25) for b in range(changed + 1)]
            chances = stats.binom.pmf(range(changed + 1), changed, 0.5)
            below *= sum(p for d, p in zip(possible, chances, strict=True) if d < z[unit].max() - 1e-12)
        assert float(found.p_any[unit]) == pytest.approx(1 - below, abs=1e-9)
    positive = np.clip(drop, 0, None)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.concentration, positive.sum(1) ** 2 / (positive**2).sum(1))
    assert float(found.p_specific[4]) == pytest.approx(0.001) and float(found.p_specific[7]) == 1
    assert (study.n_images.values * drop).sum(1) / study.sizes["image"] == pytest.approx(found.overall_drop.values)


def test_clusters_of_one_image_change_nothing(study: xr.Dataset) -> None:
    alone = study.assign(cluster=("image", np.arange(study.sizes["image"])[::-1]))
    one, other = unitlab.damage(study), unitlab.damage(alone)
    names = ["p_value", "q_value", "drop_low", "drop_high", "margin_p_value", "p_any", "max_z", "overall_drop"]
    xr.testing.assert_allclose(one[names], other[names], rtol=1e-9)


def test_images_are_clusters_of_one(study: xr.Dataset) -> None:
    images, changes = PairedImages(study, "damage"), (study.n_broken.values, study.n_fixed.values)
    one, other = ImageCells(images, *changes), ClusterCells(images, *changes)
    np.testing.assert_array_equal(one.n_changed, other.n_changed)
    for name in ("p_value", "z", "design_effect"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)
    np.testing.assert_allclose(one.p_any(one.z.max(1)), other.p_any(other.z.max(1)), atol=1e-12)


def test_classes_without_images_are_no_discoveries() -> None:
    p = np.array([[2.0**-11, np.nan], [1.0, np.nan]])
    attainable = [(mcnemar_p_values(12), 1), (mcnemar_p_values(3), 1)]
    np.testing.assert_allclose(discrete_benjamini_hochberg(p, attainable), [[1 / (2**11 - 1), np.nan], [1, np.nan]])
    assert np.isnan(discrete_benjamini_hochberg(np.full((1, 2), np.nan), [])).all()


def test_coordinates_of_the_reader_s_own_are_kept(study: xr.Dataset) -> None:
    own = study.assign_coords(kind=("unit", [f"kind {unit % 2}" for unit in study.unit.values]))
    own.unit.attrs["note"] = "as counted"
    for found in (unitlab.damage(own), unitlab.attributes(own), unitlab.discrimination(own)):
        assert found.kind.values.tolist() == own.kind.values.tolist() and found.unit.attrs["note"] == "as counted"
        assert set(found.coords) == {"unit", "category", "category_index", "kind"}


def test_cluster_tests_are_sign_flips_of_cluster_sums() -> None:
    ds = simulated_study(5, 3, 60, 1, clusters=20, flip_rate=0.25)
    found = unitlab.damage(ds)
    random = np.random.default_rng(0)
    flips = flips_of(ds)
    for unit in range(5):
        for category in range(3):
            of = ds.label.values == category
            sums = np.array([flips[unit, of & (ds.cluster.values == c)].sum() for c in np.unique(ds.cluster.values[of])])
            draws = np.abs((random.choice([-1, 1], (20_000, len(sums))) * sums).sum(1)) >= abs(sums.sum())
            assert float(found.p_value[unit, category]) == pytest.approx(draws.mean(), abs=0.02)
            clusters = [
                ds.label_margin_drop.values[unit, of & (ds.cluster.values == c)] for c in np.unique(ds.cluster.values[of])
            ]
            mean = float(found.margin_drop[unit, category])
            spread = sum((c.astype(float) - mean).sum() ** 2 for c in clusters) * len(clusters) / (len(clusters) - 1)
            half = stats.t.ppf(0.975, len(clusters) - 1) * np.sqrt(spread) / of.sum()
            assert float(found.margin_drop_high[unit, category] - mean) == pytest.approx(half, rel=1e-9)


def test_sign_flips_of_single_images_are_mcnemar() -> None:
    for broken, fixed in [(0, 1), (5, 0), (7, 2), (3, 3)]:
        expected = mcnemar([[0, broken], [fixed, 0]], exact=True).pvalue
        assert sign_flip_p_values((broken + fixed,))[abs(broken - fixed)] == pytest.approx(expected)


def test_bonett_price_is_their_worked_formula() -> None:
    low, high = bonett_price(np.array([5]), np.array([1]), np.array([30]), 0.95)
    p12, p21 = 6 / 32, 2 / 32
    half = 1.959964 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / 32)
    assert [float(low[0]), float(high[0])] == pytest.approx([p12 - p21 - half, p12 - p21 + half], abs=1e-6)


@pytest.mark.parametrize("clusters", [None, 12])
def test_halves_take_half_of_each_class_and_divide_no_cluster(clusters: int | None) -> None:
    ds = simulated_study(2, 3, 36, 0, clusters=clusters)
    cluster = ds.cluster.values if clusters else np.arange(36)
    half = halves(cluster, ds.label.values, 50, np.random.default_rng(0))
    for one in half:
        assert all(len(set(one[cluster == c])) == 1 for c in np.unique(cluster))
        for category in range(3):
            of = ds.label.values == category
            assert abs(len(set(cluster[of & one])) - len(set(cluster[of & ~one]))) <= 1
    assert half.mean(0).min() > 0.2 and half.mean(0).max() < 0.8


def test_crossfit_is_the_drop_elsewhere_of_the_class_chosen_here(study: xr.Dataset) -> None:
    found = unitlab.damage(study, seed=5)
    order = np.lexsort((np.arange(study.sizes["image"]), study.label.values))
    half = halves(np.arange(study.sizes["image"]), study.label.values[order], 100, np.random.default_rng(5))
    flips = flips_of(study)[:, order]
    label = study.label.values[order]
    for unit in (0, 4, 7):
        values = []
        for one in half:
            drops = [
                [flips[unit, part & (label == k)].mean() for k in range(6)] for part in (one, ~one)
            ]  # fmt: skip
            for here, there in (drops, drops[::-1]):
                best = [k for k in range(6) if here[k] == max(here)]
                values.append(np.mean([there[k] for k in best]))
        assert float(found.max_class_drop_crossfit[unit]) == pytest.approx(np.mean(values), abs=1e-6)


def test_reliability_is_the_stepped_up_correlation_of_the_halves(study: xr.Dataset) -> None:
    order = np.lexsort((np.arange(study.sizes["image"]), study.label.values))
    half = halves(np.arange(study.sizes["image"]), study.label.values[order], 100, np.random.default_rng(0))
    flips = flips_of(study)[:, order]
    label = study.label.values[order]
    weight = np.bincount(label)
    found = []
    for one in half:
        x, y = (np.stack([flips[:, part & (label == k)].mean(1) for k in range(6)], 1) for part in (one, ~one))
        # least squares on dummies of units and classes leaves what is neither
        design = np.concatenate([np.repeat(np.eye(len(x)), 6, 0), np.tile(np.eye(6), (len(x), 1))], 1)
        root = np.sqrt(np.tile(weight, len(x)))
        x, y = (
            root * side.ravel() - root * (design @ np.linalg.lstsq(design * root[:, None], root * side.ravel(), rcond=None)[0])
            for side in (x, y)
        )
        found.append((x @ y) / np.sqrt((x @ x) * (y @ y)))
    r = np.mean(found)
    assert float(unitlab.damage(study).reliability) == pytest.approx(2 * r / (1 + r), abs=1e-4)


def test_reliability_leans_on_large_classes_and_stays_within_bounds() -> None:
    random = np.random.default_rng(0)
    sizes = np.array([400] * 4 + [4] * 20)
    label = np.repeat(np.arange(24), sizes)
    chance = np.full((30, len(label)), 0.05)
    for unit in range(30):
        chance[unit, label == unit % 4] = 0.25
    after = np.where(random.random(chance.shape) < chance, (label + 1) % 24, label)
    found = unitlab.damage(study_of_predictions(label, label, after, 24))
    assert found.reliability > 0.9 and found.reliability_low < found.reliability < found.reliability_high <= 1
    # whatever breaks in one half is whole in the other
    for seed in range(5):
        ds = simulated_study(4, 3, 24, seed, flip_rate=0.2)
        found = unitlab.damage(ds)
        assert np.isnan(found.reliability) or -1 <= found.reliability_low <= found.reliability <= found.reliability_high <= 1


def test_a_class_without_images_is_nan_and_takes_no_part() -> None:
    ds = simulated_study(4, 4, 90, 2, empty_categories=(1,), flip_rate=0.2)
    found = unitlab.damage(ds)
    for name in ("p_value", "q_value", "drop_low", "margin_drop", "accuracy_drop", "balanced_accuracy_drop"):
        assert np.isnan(found[name].values[:, 1]).all() and np.isfinite(found[name].values[:, [0, 2, 3]]).all()
    assert not found.damaged.values[:, 1].any() and (found.max_class.values != 1).all()
    assert np.isfinite(found.max_class_drop_crossfit).all() and np.isfinite(found.p_any).all()


@pytest.mark.parametrize(
    "sizes",
    [(1, 3, 30), (3, 1, 20), (3, 2, 1), (3, 4, 5)],
    ids=["one unit", "one class", "one image", "classes with one image"],
)
def test_small_studies(sizes: tuple[int, int, int]) -> None:
    found = unitlab.damage(simulated_study(*sizes, flip_rate=0.3))
    assert found.sizes["unit"] == sizes[0]
    assert ((found.p_any >= 0) & (found.p_any <= 1)).all() and ((found.p_specific > 0) & (found.p_specific <= 1)).all()


def test_no_limit_of_a_drop_lies_beyond_all_of_the_images() -> None:
    found = unitlab.damage(simulated_study(3, 4, 20, seed=0, flip_rate=0.5))
    limits = [name for name in found if "drop" in name and "margin" not in name and name.endswith(("_low", "_high"))]
    assert {"drop_low", "max_class_drop_high", "max_class_drop_crossfit_high", "overall_drop_low"} <= set(limits)
    assert all((np.abs(found[name]) <= 1).all() for name in limits)


def test_every_variable_is_in_the_schema_with_its_definition(study: xr.Dataset) -> None:
    found = unitlab.damage(study)
    for name, variable in found.variables.items():
        assert variable.dims == VARIABLES[str(name)].dims
        if name in found.data_vars:
            assert variable.attrs["comment"] and variable.attrs["units"] and variable.attrs["long_name"]
    assert found.attrs["level"] == 0.95 and found.attrs["layer"] == "conv5_3"


def test_bad_input_is_refused(study: xr.Dataset) -> None:
    with pytest.raises(unitlab.UnitlabError, match="level is 95"):
        unitlab.damage(study, level=95)
    with pytest.raises(unitlab.UnitlabError, match="seed is 'a'; expected a whole number"):
        unitlab.damage(study, seed="a")  # type: ignore[arg-type]
    with pytest.raises(unitlab.UnitlabError, match="needs one unit or more"):
        unitlab.damage(study.isel(unit=[]))
    with pytest.raises(unitlab.UnitlabError, match="give the study with all its classes"):
        unitlab.damage(study.isel(category=[0]))
    with pytest.raises(unitlab.UnitlabError, match="needs 'prediction'"):
        unitlab.damage(study.drop_vars("prediction"))
    with pytest.raises(unitlab.UnitlabError, match="takes a study"):
        unitlab.damage(study.accuracy_drop)  # type: ignore[call-overload]


def test_confusion_counts_every_moved_image(study: xr.Dataset) -> None:
    found = unitlab.confusion(study, 4)
    label, before, after = study.label.values, study.baseline_prediction.values, study.prediction.values[4]
    for a in range(6):
        for b in range(6):
            of = label == a
            assert int(found.n_lost[a, b]) == (of & (before == a) & (after == b) & (a != b)).sum()
            assert int(found.n_won[a, b]) == (of & (after == a) & (before == b) & (a != b)).sum()
            assert int(found.n_swapped[a, b]) == (of & (before != a) & (after == b) & (before != b) & (a != b)).sum()
    np.testing.assert_array_equal(found.n_lost.sum("predicted"), study.n_broken[4])
    np.testing.assert_array_equal(found.n_won.sum("predicted"), study.n_fixed[4])
    with pytest.raises(unitlab.UnitlabError, match="no unit 99"):
        unitlab.confusion(study, 99)
