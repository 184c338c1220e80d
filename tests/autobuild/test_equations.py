"""Equations are read by our own rules: what they compute, what they refuse, and that nothing of them ever runs."""

import numpy as np
import pytest

from genmad.autobuild.equations import EquationError, Scaling, parse_equation

ACC = np.array([0.70, 0.75, 0.78])
LAT = np.array([5.0, 10.0, 20.0])
COLUMNS = {"acc": ACC, "lat": LAT, "FID-GT-1k": np.array([11.0, 10.0, 9.5])}


def evaluate(text: str) -> np.ndarray:
    return parse_equation(text, list(COLUMNS)).evaluate(COLUMNS)


def refusal(text: str) -> str:
    with pytest.raises(EquationError) as caught:
        evaluate(text)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100**acc/log10(lat)", 100**ACC / np.log10(LAT)),
        ("sqrt(acc) - (1/4)*sqrt(lat)", np.sqrt(ACC) - 0.25 * np.sqrt(LAT)),
        ("acc/lat", ACC / LAT),
        ("  -acc**2", -(ACC**2)),
        ("max(acc, lat/10, 0.72)", np.maximum(np.maximum(ACC, LAT / 10), 0.72)),
        ("-1*`FID-GT-1k` - abs(-lat)", -COLUMNS["FID-GT-1k"] - LAT),
        ("exp(log(lat)) + log2(lat) - min(acc, lat)", LAT + np.log2(LAT) - ACC),
    ],
)
def test_equations_compute_what_they_say(text: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(evaluate(text), expected, rtol=1e-12)


CODE = (
    "__import__('os').system('true')", "acc.__class__", "(lambda: acc)()", "[x for x in acc]", "acc if lat else acc",
    "acc < lat", "acc and lat", "f'{acc}'", "acc[0]", "{acc}", "open('x')", "eval('acc')", "acc := 3", "acc; lat",
    "acc\nlat", "acc // lat", "acc % lat", "acc @ lat", "~acc", "not acc", "1j*acc", "'a'*acc", "True*acc",
    "sqrt(x=acc)", "sqrt(*acc)", "sqrt(acc, lat)", "min(acc)", "", "3 + 4",
)  # fmt: skip


@pytest.mark.parametrize("text", CODE)
def test_what_is_no_arithmetic_of_columns_is_refused(text: str) -> None:
    assert "expected" in refusal(text)


def test_an_unknown_column_is_shown_by_a_caret_with_the_nearest_names() -> None:
    """All unknown columns are named at once, each with its place."""
    text = refusal("acc - 2*latt + ac")
    assert "  acc - 2*latt + ac\n          ^\n" in text
    assert "unknown column 'latt'" in text
    assert "did you mean lat?" in text
    assert "unknown column 'ac'" in text
    assert "columns FID-GT-1k, acc, lat" in text


def test_a_division_by_zero_names_the_rows_and_the_divisor() -> None:
    text = refusal("acc/(lat - 10)")
    assert "row 2;" in text
    assert "divisor is zero" in text
    # The caret stands under the divisor.
    assert "  acc/(lat - 10)\n       ^\n" in text


@pytest.mark.parametrize(
    ("text", "part"),
    [("sqrt(acc - lat)", "rows 1, 2, 3"), ("log(acc - 0.7)", "row 1;"), ("10**lat**2.3", "row 3;"),
     ("9**9**9**9*acc", "rows 1, 2, 3"), ("acc/0", "divisor is zero")],
)  # fmt: skip
def test_values_that_are_not_finite_name_rows_and_cause(text: str, part: str) -> None:
    assert part in refusal(text)


def test_rows_can_have_names_and_long_lists_are_cut() -> None:
    equation = parse_equation("1/x", ["x"])
    with pytest.raises(EquationError, match=r"in net7, net8, net9, .* and 12 more"):
        equation.evaluate({"x": np.zeros(20)}, rows=[f"net{i + 7}" for i in range(20)])


def test_missing_labels_are_refused_unless_asked_for() -> None:
    equation = parse_equation("acc/lat", ["acc", "lat"])
    columns = {"acc": np.array([0.7, np.nan]), "lat": np.array([7.0, 0.0])}
    with pytest.raises(EquationError, match="row 2: got no value in acc"):
        equation.evaluate(columns)
    # Where a label is missing, what the others would give (here 1/0) does not matter.
    np.testing.assert_allclose(equation.evaluate(columns, missing=True), [0.1, np.nan])


@pytest.mark.parametrize(
    "text",
    ["acc" + "+acc" * 200, "sqrt(" * 60 + "acc" + ")" * 60, "(" * 300 + "acc", "-" * 60 + "acc", "acc**1e9",
     "acc**-101", "acc*1e999", "acc*" + "9" * 390],
)  # fmt: skip
def test_equations_that_are_too_long_too_deep_or_too_large_are_refused(text: str) -> None:
    assert "expected" in refusal(text)


def test_the_scaling_of_each_column_is_stated() -> None:
    """`acc - lat` is another equation for fractions than for percents: the report has to say which it was."""
    fraction, ms = parse_equation("acc - lat", ["acc", "lat"]).scalings(COLUMNS)
    assert (fraction.unit, fraction.known_by) == ("fraction", "values")
    assert (ms.unit, str(ms)) == ("ms", "lat: ms, 5 to 20")
    assert Scaling.of("acc", 100 * ACC).unit == "percent"
    assert Scaling.of("acc_top1_frac", ACC).known_by == "name"
    assert Scaling.of("score", ACC).unit == "as given"
