"""Class d′ and the area under the ROC curve agree with plain numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_study import simulated_study
from sklearn.metrics import roc_auc_score

import unitlab
from unitlab.analysis.discrimination import weighted_discrimination
from unitlab.schema import VARIABLES


def test_measures_agree_with_numpy_and_scikit_learn() -> None:
    ds = simulated_study(9, 5, 200, 1, dead_units=(3,))
    # signed, with ties
    ds["activation_mean"] = ds.activation_mean.round(1) - 0.5 * (ds.activation_mean > 0)
    found = unitlab.discrimination(ds)
    for unit in range(9):
        values = ds.activation_mean.values[unit].astype(np.float64)
        for k in range(5):
            mine = ds.label.values == k
            if unit == 3:
                assert np.isnan(found.class_auc[unit, k]) and np.isnan(found.class_d_prime[unit, k])
                continue
            area = roc_auc_score(mine, values)
            assert float(found.class_auc[unit, k]) == pytest.approx(max(area, 1 - area))
            spread = np.sqrt((values[mine].var() + values[~mine].var()) / 2)
            expected = abs(values[mine].mean() - values[~mine].mean()) / spread
            assert float(found.class_d_prime[unit, k]) == pytest.approx(expected)
    assert np.isnan(found.max_class_auc[3])
    np.testing.assert_array_equal(found.max_class_auc[:3], found.class_auc[:3].max("category"))
    for name, variable in found.data_vars.items():
        assert variable.dims == VARIABLES[str(name)].dims


def test_weights_are_numbers_of_copies() -> None:
    ds = simulated_study(5, 4, 90, 3, empty_categories=(2,))
    values, label = ds.activation_mean.values.round(1), ds.label.values
    weights = np.random.default_rng(0).integers(0, 4, (90, 3))
    found = weighted_discrimination(values, label, 4, weights)
    for sample, times in enumerate(weights.T):
        copies = np.repeat(np.arange(90), times)
        expected = weighted_discrimination(values[:, copies], label[copies], 4, np.ones((len(copies), 1)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[sample], other[0], rtol=1e-9)
            assert np.isnan(one[sample, :, 2]).all()


def test_the_sign_of_a_direction_does_not_matter() -> None:
    ds = simulated_study(6, 4, 120, 2)
    turned = ds.assign(activation_mean=-ds.activation_mean)
    for name in ("class_d_prime", "class_auc"):
        np.testing.assert_allclose(unitlab.discrimination(ds)[name], unitlab.discrimination(turned)[name])


def test_classes_without_images_or_others_are_undefined() -> None:
    found = unitlab.discrimination(simulated_study(4, 3, 30, 0, empty_categories=(1,)))
    assert found.class_auc[:, 1].isnull().all() and found.class_auc[:, 0].notnull().all()
    alone = unitlab.discrimination(simulated_study(4, 1, 30, 0))
    assert alone.class_auc.isnull().all() and alone.max_class_d_prime.isnull().all()


def test_what_is_no_study_is_refused() -> None:
    with pytest.raises(unitlab.UnitlabError, match="activation_mean"):
        unitlab.discrimination(simulated_study().drop_vars("activation_mean"))
