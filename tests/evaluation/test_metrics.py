"""Numbers by hand."""

import numpy as np
import pytest

from rmn_hub.evaluation import metrics


def test_paired_difference_by_hand():
    """Of ten faces the one network alone has four right, the other alone one: p = 2 (1 + 5) / 2^5."""
    one, other = [1, 1, 1, 1, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    result = metrics.paired_difference(one, other)
    assert (result["only_first"], result["only_second"]) == (4, 1)
    assert result["difference"] == pytest.approx(0.3)
    assert result["p_value"] == pytest.approx(0.375)
    half = 1.959964 * np.std([1, 1, 1, 1, -1, 0, 0, 0, 0, 0], ddof=1) / np.sqrt(10)
    assert result["interval"] == pytest.approx([0.3 - half, 0.3 + half])
    assert metrics.paired_difference(one, one)["p_value"] == 1
    assert metrics.paired_difference([1], [0])["interval"] == [-np.inf, np.inf]


def test_expected_calibration_error_by_hand():
    # Confidences 0.9, 0.9 and 0.55 fall into bins 14, 14 and 9 of 15; two of the three are right.
    probabilities = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.55, 0.45, 0]])
    result = metrics.calibration(probabilities, np.array([0, 1, 0]))
    assert len(result["bins"]) == 15
    assert [row["faces"] for row in result["bins"]] == [0] * 8 + [1] + [0] * 4 + [2, 0]
    assert result["expected_calibration_error"] == pytest.approx(2 / 3 * abs(0.5 - 0.9) + 1 / 3 * abs(1 - 0.55))


def test_confidence_of_one_has_a_bin():
    result = metrics.calibration(np.array([[1.0, 0.0]]), np.array([0]))
    assert result["bins"][-1]["faces"] == 1
    assert result["expected_calibration_error"] == 0


def test_softmax_is_in_double_precision():
    logits = np.array([[1000.0, 1000.0, -1000.0], [0.0, 1.0, 2.0]], np.float32)
    values = metrics.softmax(logits)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values[0], [0.5, 0.5, 0], atol=1e-300)
    np.testing.assert_allclose(values[1], np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), rtol=1e-14)
