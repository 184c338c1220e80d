"""Calibration and coverage against figures worked out by hand."""

import math

import numpy as np
import pytest

from genmad.evals.confidence import calibration_error, platt, success_at_coverage


def test_a_generator_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    assert calibration_error([0.75] * 4, [True, True, True, False]) == 0.0
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([], []) == 0.0


def test_the_error_is_the_gap_of_each_bin_by_its_size() -> None:
    # Two answers at .95 of which one is right (gap .45), two at .15 of which none is (gap .15): (.45 + .15) / 2.
    assert calibration_error([0.95, 0.95, 0.15, 0.15], [True, False, False, False]) == pytest.approx(0.3)


def test_coverage_leaves_the_least_confident_out() -> None:
    sure, right = [0.9, 0.1, 0.8, 0.7], [True, False, True, False]
    assert success_at_coverage(sure, right, 1.0) == 0.5
    assert success_at_coverage(sure, right, 0.5) == 1.0
    assert success_at_coverage(sure, right, 0.01) == 1.0


def test_platt_scaling_finds_the_scale_and_shift_that_made_the_answers() -> None:
    """With 4,000 answers drawn from the law itself, both come back within 0.15 (over four standard errors)."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-(0.5 * odds - 0.7)))
    scale, shift = platt((1 / (1 + np.exp(-odds))).tolist(), right.tolist())
    assert math.isclose(scale, 0.5, abs_tol=0.15)
    assert math.isclose(shift, -0.7, abs_tol=0.15)
