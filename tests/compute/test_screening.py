"""Screened sweeps: what they evaluate equals the exact sweep, what they leave out is bounded, and nothing reads it as known."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import xarray as xr
from scipy.special import ndtr
from small_networks import CLASSES, FunctionalReLU
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError, plots
from unitlab.analysis.rankings import ranking
from unitlab.cli import main
from unitlab.compute import sampled_units
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import passes, plan, screening
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.screening import BINS, Certificate, PairChoice, Rule, again, calibrated, missed_limit
from unitlab.store.shards import PartialStudy

IMAGES, SCREEN = 800, 0.15
DEAD = 3
BAD = Rule(threshold=230, probability=0.3)  # leaves out much, and finds that out


def source(count: int = IMAGES) -> ImageSource:
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(count, 3, 17, 17), torch.arange(count) % CLASSES)
    return unitlab.images(data, categories=[f"class {k}" for k in range(CLASSES)])


def network() -> torch.nn.Module:
    """Close calls between the classes, and a unit of conv1 that is silent."""
    torch.manual_seed(5)
    model = FunctionalReLU().eval()
    with torch.no_grad():
        model.fc2.bias.zero_()
        model.conv1.weight[DEAD], model.conv1.bias[DEAD] = 0, -1
    return model


def ablate(**options: Any) -> xr.Dataset:
    return unitlab.ablate(network(), options.pop("images", None) or source(), "conv1", progress=False, device="cpu", **options)


exact = cache(ablate)


@cache
def screened(**options: Any) -> xr.Dataset:
    return ablate(screen=SCREEN, **options)


@pytest.fixture
def second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt has a rule that is not sure enough."""
    monkeypatch.setattr(passes, "calibrated_rules", lambda counts, *_: dict.fromkeys(counts, BAD))


def check(found: xr.Dataset, expected: xr.Dataset, attempts: int | None = None) -> None:
    """Evaluated pairs are those of the exact sweep; what is missed and estimated is within what is said."""
    known = found.evaluated.values > 0
    assert attempts in (None, found.attrs["screen_attempts"]) and 0.02 < (~known).mean() < 0.98
    np.testing.assert_array_equal(found.prediction.values[known], expected.prediction.values[known])
    np.testing.assert_allclose(
        found.label_margin_drop.values[known].astype(float), expected.label_margin_drop.values[known].astype(float), atol=1e-3
    )
    assert (found.prediction.values[~known] == -1).all()
    changed = (expected.prediction != expected.baseline_prediction).values
    missed = int((changed & ~known).sum())
    assert missed <= found.attrs["screen_missed_limit"]
    assert found.attrs["screen_flips_found"] == int((changed & known).sum())
    limit = found.attrs["screen_missed_limit"]
    assert found.attrs["screen_missed_share_limit"] == pytest.approx(limit / (limit + (changed & known).sum()))
    # by hand, from what the study holds
    weight = np.where(found.evaluated.values == 2, 1 / found.attrs["screen_probability"], 1.0)
    right = (found.baseline_prediction == found.label).values
    lost = np.where(known, right.astype(int) - (found.prediction == found.label).values, 0)
    np.testing.assert_allclose(found.overall_drop, (weight * lost).mean(1), atol=1e-12)
    p, sampled = found.attrs["screen_probability"], found.evaluated.values == 2
    variance = (np.where(sampled, lost, 0) ** 2).sum(1) * (1 - p) / p**2
    np.testing.assert_allclose(found.overall_drop_error, np.sqrt(variance) / known.shape[1], atol=1e-12)
    assert found.attrs["screen_flips"] == pytest.approx((weight * (changed & known)).sum())
    assert found.attrs["screen_lost"] == pytest.approx((weight * lost).sum())
    assert found.attrs["screen_lost_error"] == pytest.approx(np.sqrt(variance.sum()))
    for k in range(CLASSES):
        mine = (found.label == k).values
        np.testing.assert_array_equal(found.n_broken[:, k], (lost[:, mine] == 1).sum(1))
        np.testing.assert_array_equal(found.n_fixed[:, k], (lost[:, mine] == -1).sum(1))
        np.testing.assert_array_equal(found.n_unevaluated[:, k], (~known[:, mine]).sum(1))
        np.testing.assert_array_equal(found.n_predicted[:, k], (found.prediction == k).values.sum(1))
    assert (np.abs(found.accuracy_drop - expected.accuracy_drop) <= found.accuracy_drop_missed + 1e-12).all()


def test_evaluated_pairs_are_those_of_the_exact_sweep() -> None:
    check(screened(), exact(), attempts=1)


def test_a_second_attempt_keeps_what_was_evaluated_and_draws_afresh(second_attempt: None) -> None:
    found = ablate(screen=SCREEN)
    check(found, exact(), attempts=2)
    drawn = PairChoice(*_layer_and_seed(), 1, BAD, np.arange(IMAGES)).drawn
    assert (found.evaluated.values[drawn] == 1).all() and (found.evaluated.values[DEAD] == 1).all()


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_other_ablations(ablation: str) -> None:
    check(screened(ablation=ablation), exact(ablation=ablation))


def test_in_bfloat16_and_with_the_networks_own_labels() -> None:
    found, expected = screened(precision="bfloat16", labels="predicted"), exact(labels="predicted")
    known = found.evaluated.values > 0
    assert (found.prediction.values == expected.prediction.values)[known].mean() > 0.999


def test_margins_of_pairs_left_out_are_first_order_estimates() -> None:
    """Against the gradient of the label's margin in float64, at what the convolution returns and its ReLU passes on."""
    found, model = screened(), network().double()
    images = torch.cat([source().at([place]) for place in range(40)]).double()
    before = torch.relu(model.conv1(images)).detach().requires_grad_()
    pooled = torch.nn.functional.max_pool2d(before, 2)
    features = torch.relu(model.conv2(pooled))
    logits = model.fc2(torch.relu(model.fc1(torch.nn.functional.adaptive_avg_pool2d(features, 3).flatten(1))))
    label = torch.arange(40) % CLASSES
    predicted = logits.argmax(1)
    others = logits.scatter(1, label[:, None], -torch.inf).argmax(1)
    margin = logits.gather(1, label[:, None]) - logits.gather(1, others[:, None])
    (slope,) = torch.autograd.grad(margin.sum(), before)
    drop = (before * slope).sum((2, 3)).t().detach().numpy()
    left = found.evaluated.values[:, :40] == 0
    assert left[:, (predicted == label).numpy()].any() and left[:, (predicted != label).numpy()].any()
    np.testing.assert_allclose(found.label_margin_drop.values[:, :40][left], drop[left], atol=2e-3)


def _layer_and_seed() -> tuple[Any, int]:
    with exact_float32():
        return plan_sweep(network(), source(8), SweepRequest("conv1"), "cpu").layers[0], 0


def test_draws_hang_on_positions_and_not_on_batches() -> None:
    layer, seed = _layer_and_seed()
    rule, places = Rule(3, 0.2), np.arange(4000)
    together = PairChoice(layer, seed, 1, rule, places).drawn
    apart = [PairChoice(layer, seed, 1, rule, some).drawn for some in np.array_split(places, 7)]
    np.testing.assert_array_equal(together, np.concatenate(apart, 1))
    assert together.mean() == pytest.approx(0.2, abs=0.01)
    for other in (PairChoice(layer, 1, 1, rule, places), PairChoice(layer, seed, 2, rule, places)):
        assert (together & other.drawn).mean() == pytest.approx(0.04, abs=0.005)


def test_a_position_has_its_stretch_of_one_stream() -> None:
    places, entropy = np.array([0, 1, 2, 7, 9, 10, 123456789]), [3, 1, 77]
    key = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    drawn = screening.uniform(entropy, places, 9)
    for place, found in zip(places, drawn, strict=True):
        stream = np.random.Philox(key=key)
        stream.advance(int(place) * 3)  # of four numbers each
        np.testing.assert_array_equal(found, np.random.Generator(stream).random(9))


def test_chances_come_back_from_what_they_gave() -> None:
    """Also below what any flip was seen of, and with a floor once flips show it."""
    random, middle = np.random.default_rng(2), (np.arange(BINS) + 0.5) / 16 - 6
    pairs = np.full(BINS, 400)
    for floor in (0.0, 1e-3):
        chance = np.maximum(ndtr(-(2.0 ** (0.7 * (4 - middle)))), floor)
        seen = np.stack([pairs, random.binomial(pairs, chance)])
        found, weight = screening.flip_chances(seen)
        assert weight.sum() == pytest.approx(1) and (weight >= 0).all()
        expected, told = np.cumsum(chance * pairs), weight @ np.cumsum(found * pairs, 1)
        for edge in (110, 140, 170):
            assert abs(told[edge] - expected[edge]) < 3 * np.sqrt(expected[edge] + 1)
        assert told[-1] == pytest.approx(seen[1].sum(), rel=0.1)


def test_a_pilot_tells_of_the_pairs_that_it_left_out() -> None:
    """Of an eighth of the pairs below its threshold, and of all others: the rule is about that of a pilot of every pair."""
    random = np.random.default_rng(4)
    bins = np.clip(random.normal(90, 35, 60_000), 0, BINS - 1).astype(int)
    flips = random.random(len(bins)) < ndtr(-(2.0 ** (0.7 * (4 - bins / 16 + 6))))
    sampled = (bins < passes.PILOT.threshold) & (random.random(len(bins)) < passes.PILOT.probability)
    above = bins >= passes.PILOT.threshold
    rows = (np.ones_like(flips), sampled, above & flips, sampled & flips)
    counts = np.stack([np.bincount(bins[row], minlength=BINS) for row in rows])
    seen = passes.PILOT.seen(counts)
    np.testing.assert_array_equal(seen[0], np.bincount(bins[above | sampled], minlength=BINS))
    np.testing.assert_array_equal(seen[1], np.bincount(bins[(above | sampled) & flips], minlength=BINS))
    whole = np.stack([np.bincount(bins[row], minlength=BINS) for row in (rows[0], flips)])
    rules = [calibrated(10.0 * counts[0], found, 0.02, 1) for found in (seen, whole)]
    for rule in rules:
        missed = 10 * whole[1][: rule.threshold].sum()
        assert not rule.exact and missed < 0.02 * 10 * whole[1].sum()
    shares = [rule.evaluated(counts) for rule in rules]
    assert shares[0] == pytest.approx(shares[1], rel=0.25) and shares[0] < 0.5


def test_the_limit_of_missed_flips_is_exact() -> None:
    """Of a Bernoulli sample: the largest number that would not show fewer with the level's chance."""
    random = np.random.default_rng(0)
    assert missed_limit(0, 1e-4, 1) / 1e4 == pytest.approx(-np.log(0.025), rel=0.01)
    for p, flips in ((0.02, 200), (0.1, 60), (0.4, 9)):
        found = random.binomial(flips, p, 20_000)
        limits = np.array([missed_limit(x, p, 1) for x in range(found.max() + 1)])
        covered = (limits[found] >= flips - found).mean()
        assert covered >= 0.975 - 3 * np.sqrt(0.025 / 20_000)


def test_the_stated_share_covers_what_is_missed_in_19_of_20_sweeps() -> None:
    """The whole procedure, pilot and second attempts included, on populations of scores and flips with a heavy lower tail."""
    random, covered, seconds, certified = np.random.default_rng(1), [], [], []
    for _ in range(300):
        bins = np.clip(random.normal(100, 30, 40_000), 0, BINS - 1).astype(int)
        chance = np.where(bins > 150, 0.25, 10.0 ** random.uniform(-5, -2.5))
        flips = random.random(len(bins)) < chance
        pilot = random.random(len(bins)) < 0.05

        def histogram(some: np.ndarray, bins: np.ndarray = bins) -> np.ndarray:
            return np.bincount(bins[some], minlength=BINS)

        seen = np.stack([histogram(pilot), histogram(pilot & flips)])
        rules = [calibrated(20.0 * seen[0], seen, 0.02, 1)]
        known, counts = np.zeros(len(bins), bool), []
        for attempt in (1, 2):
            rule = rules[-1]
            above = (bins >= rule.threshold) & ~known
            sampled = (random.random(len(bins)) < rule.probability) & ~above & ~known
            rows = (~known, sampled, above & flips, sampled & flips)
            counts.append(np.stack([histogram(row) for row in rows]))
            known |= above | sampled
            found = Certificate.of(rules, counts)
            if found.missed_share <= 0.02 or attempt == 2:
                break
            rules.append(again(rule, counts[0], 0.02))
        missed = int((flips & ~known).sum())
        assert found.found == int((flips & known).sum()) and found.evaluated == int(known.sum())
        covered.append(missed <= found.limit)
        seconds.append(len(rules) == 2)
        certified.append(found.missed_share <= 0.02)
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 300)
    assert 0.05 < np.mean(seconds) < 0.95 and np.mean(certified) > 0.8


def bytes_of(store: Path) -> dict[str, bytes]:
    paths = sorted(path for path in store.rglob("*") if path.is_file() and path.name not in ("zarr.json", "manifest.json"))
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("second_attempt")
def test_cut_off_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", 100)
    options = {"screen": SCREEN, "images": source(400), "batch_size": 50}
    whole = ablate(store=tmp_path / "whole.zarr", **options)
    assert whole.attrs["screen_attempts"] == 2
    write, rules, calls = PartialStudy.write, PartialStudy.write_rules, iter(range(100))

    def cut(method: Callable[..., None]) -> Callable[..., None]:
        def run(*given: Any) -> None:
            if next(calls) % 2:
                raise KeyboardInterrupt
            method(*given)

        return run

    monkeypatch.setattr(PartialStudy, "write", cut(write))
    monkeypatch.setattr(PartialStudy, "write_rules", cut(rules))
    cuts = 0
    while not (tmp_path / "cut.zarr").exists():
        try:
            ablate(store=tmp_path / "cut.zarr", **options)
        except KeyboardInterrupt:
            cuts += 1
    assert cuts > 5
    assert bytes_of(tmp_path / "cut.zarr") == bytes_of(tmp_path / "whole.zarr")


def test_what_a_store_has_is_not_mixed(tmp_path: Path) -> None:
    store, some = tmp_path / "study.zarr", {"images": source(300)}
    ablate(store=store, screen=0.5, units=[0, 1, 2, 3], **some)
    assert ablate(store=store, screen=0.5, units=[0, 1, 2, 3], **some).sizes["unit"] == 4
    with pytest.raises(UnitlabError, match=r"screen=0\.5, and every pair is asked for"):
        ablate(store=store, units=[0, 1, 2, 3], **some)
    with pytest.raises(UnitlabError, match="of further units"):
        ablate(store=store, screen=0.5, **some)
    with pytest.raises(UnitlabError, match=r"holds conv1/zero with screen=0\.5, and screen=0\.4"):
        ablate(store=store, screen=0.4, units=[0, 1, 2, 3], **some)
    other = tmp_path / "exact.zarr"
    ablate(store=other, **some)
    assert "evaluated" not in ablate(store=other, screen=0.5, **some)


def test_layers_that_cost_no_less_are_exact_and_say_so() -> None:
    found = unitlab.ablate(network(), source(80), ["conv2", "fc1"], screen=0.1, progress=False, device="cpu")
    assert found["fc1"].attrs["screen_exact"] == "every pair costs no more than some"
    assert found["conv2"].attrs["screen_exact"] == "no cheaper way to a bound"
    for ds in found.values():
        assert "evaluated" not in ds and (ds.prediction >= 0).all()
        assert unitlab.damage(ds, progress=False).q_value.notnull().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"screen": 0}, "screen=0 is no share"), ({"screen": 0.7}, "0.5 at most"), ({"screen": True}, "screen=True"),
     ({"screen": "1 %"}, "screen='1 %'"), ({"screen": 0.1, "basis": "random"}, "basis= needs every pair")],
)  # fmt: skip
def test_bad_shares_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnitlabError, match=re.escape(message)):
        ablate(**options)


def test_damage_says_what_it_knows_and_no_more() -> None:
    ds = screened()
    found, expected = unitlab.damage(ds), unitlab.damage(exact(), progress=False)
    known = ds.n_unevaluated.values == 0
    assert known[DEAD].all() and not known[DEAD + 1 :].any()
    for name in ("p_value", "drop_low", "drop_high"):
        np.testing.assert_array_equal(np.isfinite(found[name].values), known)
        np.testing.assert_allclose(found[name].values[known], expected[name].values[known], atol=1e-12)
    for name in ("q_value", "p_overall", "p_specific", "p_any", "max_class_drop_crossfit", "margin_drop", "reliability"):
        assert found[name].isnull().all()
    assert not {"damaged", "n_damaged", "n_changed"} & set(found.variables)
    np.testing.assert_array_equal(found.overall_drop, ds.overall_drop)
    assert {"overall_drop_error", "n_unevaluated", "accuracy_drop_missed"} <= set(found.variables)


REFUSE: dict[str, Callable[[xr.Dataset], Any]] = {
    "confusion": lambda ds: unitlab.confusion(ds, 0),
    "correlations": unitlab.correlations,
    "quick correlations": lambda ds: unitlab.correlations(ds, "fraction_active", "overall_drop"),
    "regression": lambda ds: unitlab.regression(ds, "overall_drop", ["fraction_active"]),
    "selective_damage": unitlab.selective_damage,
    "reliability": lambda ds: unitlab.reliability(ds, "overall_drop"),
    "agreement": lambda ds: unitlab.agreement({"a": ds, "b": ds}, "overall_drop"),
    "compare": lambda ds: unitlab.compare(ds.sel(unit=0), ds.sel(unit=1)),
    "important_to": unitlab.important_to,
    "important_to of damage": lambda ds: unitlab.important_to(unitlab.damage(ds)),
    "match": lambda ds: unitlab.match(ds, ds),
    "ranking": lambda ds: ranking(ds, "max_class_drop"),
    "units": plots.units,
    "units of damage": lambda ds: plots.units(unitlab.damage(ds)),
    "classes": lambda ds: plots.classes(ds, 0),
    "classes of damage": lambda ds: plots.classes(unitlab.damage(ds), 0),
    "accuracies": plots.accuracies,
    "plot of confusion": lambda ds: plots.confusion(ds, 0),
    "important": plots.important,
    "describe": unitlab.describe,
    "units_of": lambda ds: unitlab.units_of(ds, "class 1"),
    "compare of layers": lambda ds: unitlab.compare(ds, ds),
    "explore": unitlab.explore,
    "report": lambda ds: unitlab.report(ds, "/tmp/none.html"),
    "without the bits": lambda ds: unitlab.confusion(ds.drop_vars("evaluated"), 0),
}


@pytest.mark.parametrize("what", REFUSE)
def test_what_needs_every_pair_refuses(what: str) -> None:
    with pytest.raises(UnitlabError, match="screened"):
        REFUSE[what](screened())


def test_what_needs_no_prediction_takes_it() -> None:
    ds, whole = screened(), exact()
    xr.testing.assert_allclose(unitlab.attributes(ds).drop_attrs(), unitlab.attributes(whole).drop_attrs())
    xr.testing.assert_allclose(unitlab.discrimination(ds).drop_attrs(), unitlab.discrimination(whole).drop_attrs())
    assert unitlab.verify(ds, network(), source(), sample=300).different == 0
    assert ranking(ds, "overall_drop").units[0, 0] == ds.unit[int(ds.overall_drop.argmax("unit"))]


def test_verify_compares_evaluated_pairs_alone() -> None:
    ds = screened()
    assert 250 <= unitlab.verify(ds, network(), source(), sample=300).compared <= 300
    changed = ds.copy()
    some = (ds.evaluated == 1) & (ds.unit < 4)
    changed["prediction"] = ds.prediction.where(~some, (ds.prediction + 1) % CLASSES).astype(ds.prediction.dtype)
    assert unitlab.verify(changed, network(), source(), sample=300).different > 50


def test_a_bundled_network_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = RecipeFiles(unitlab.catalog.recipe("vgg_emoji"))
    images, layers = files.images().subset(np.arange(0, 4_428, 4)), ["conv5_1"]
    sweeps = [
        unitlab.ablate(files.model(), images, layers, device="cpu", progress=False, screen=screen) for screen in (None, 0.05)
    ]
    for layer in layers:
        expected, found = (sweep[layer] for sweep in sweeps)
        known = found.evaluated.values > 0
        assert (found.prediction.values == expected.prediction.values)[known].all() and known.mean() < 0.5
        missed = (expected.prediction != expected.baseline_prediction).values & ~known
        assert missed.sum() <= found.attrs["screen_missed_limit"]
    assert main(["compute", "vgg_fashion", "--screen", "2", "--store", str(tmp_path / "x.zarr")]) == 2
    assert "screen=2.0 is no share" in capsys.readouterr().err


def test_an_estimate_says_what_a_screen_leaves() -> None:
    found = unitlab.estimate(network(), source(), ["conv1", "fc1"], screen=SCREEN, device="cpu", progress=False)
    assert re.search(r"; screened: (about \d+% of the pairs|every pair, as far as \d+ images show)$", found.layers[0].strategy)
    assert "screened" not in found.layers[1].strategy and "screen=0.15" in str(found)
    assert found.seconds > 0


def test_nothing_of_a_rule_is_left_to_chance() -> None:
    """Rules are kept with scores on bin edges, and bins are where scores say."""
    scores = torch.tensor([0.0, 2.0**-6, 1.0, 1.04, 2.0**9.99, torch.inf])
    assert screening.bins_of(scores).tolist() == [0, 0, 96, 96, 255, 255]
    assert Rule(96, 0.1).score == 1.0
    kept = screening.rules_to_arrays({"a": Rule(96, 0.1), "b": Rule()})
    assert screening.rules_from_arrays(kept) == {"a": Rule(96, 0.1), "b": Rule()}


def test_a_rule_may_evaluate_nothing() -> None:
    """Its threshold is beyond all bins, which are bytes."""
    layer, seed = _layer_and_seed()
    choose = PairChoice(layer, seed, 1, Rule(BINS, 0.0), np.arange(3))
    live = torch.ones(len(layer.units), 3, dtype=torch.bool)
    assert not choose(live, torch.full(live.shape, torch.inf)).any()


def test_a_few_units_tell_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network shaped like ResNet50; with all units of one layer, what the pairs of all of them show."""
    torch.manual_seed(0)
    resnet = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES).eval()
    data = TensorDataset(torch.randn(12, 3, 64, 64), torch.arange(12) % CLASSES)
    monkeypatch.setattr(sampled_units, "LONG", 0.0)
    monkeypatch.setattr(sampled_units, "MOST_SAMPLED", 2)
    found = unitlab.estimate(resnet, data, "all", screen=0.1, device="cpu", progress=False)
    screened = [layer for layer in found.layers if "screened: guessed" in layer.strategy]
    assert len(found.layers) == 17 and len(screened) >= 15 and found.seconds > 0 and found.disk_finished > 0
    assert found.guessed in str(found) and re.match(r"guessed: times of pairs from [12] units? of each", found.guessed)

    monkeypatch.setattr(sampled_units, "FEW_UNITS", 0)
    monkeypatch.setattr(sampled_units, "MOST_SAMPLED", 1000)
    images = source(200)
    with exact_float32():
        whole = plan_sweep(network(), images, SweepRequest("conv1", screen=SCREEN), "cpu")
        batch = next(iter(images.stream([range(200)], thumbnails=True)))
        units = sampled_units.sampled_units(whole, images, whole.replacements(None, 200), batch)
        assert units is not None
        monkeypatch.setattr(passes, "PILOT", Rule())
        counts = passes.counts_of(whole, images, whole.replacements(None, 200), np.arange(200), lambda _: None)["conv1"]
    assert units.flips == Rule().seen(counts)[1].sum() and units.images == 200
    rule = calibrated(counts[0], Rule().seen(counts), SCREEN, 1)
    assert units.shares["conv1"] == pytest.approx(1.0 if rule.exact else rule.evaluated(counts))
