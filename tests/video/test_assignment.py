"""The best assignment: scipy's, on matrices of every shape."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rmn_hub.video.assignment import best_assignment


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (4, 9), (9, 4), (50, 50), (30, 50)])
def test_it_has_the_largest_sum(shape):
    for seed in range(20):
        random = np.random.default_rng(seed)
        # Whole numbers have ties, and tracks that match nothing have zeros.
        for scores in (random.random(shape), random.integers(0, 4, shape), random.random(shape) - 0.5):
            pairs = best_assignment(scores)
            rows, columns = zip(*pairs)
            assert len(set(rows)) == len(set(columns)) == min(shape)
            expected = scores[linear_sum_assignment(scores, maximize=True)].sum()
            assert scores[rows, columns].sum() == pytest.approx(expected, abs=1e-9)


def test_a_pair_that_is_worse_alone_is_taken_for_the_sum():
    assert best_assignment(np.array([[10, 9], [9, 1]])) == [(0, 1), (1, 0)]
    assert best_assignment(np.zeros((3, 0))) == []
