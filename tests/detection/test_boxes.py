"""Arithmetic on boxes: suppression against its definition."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from rmn_hub.detection.boxes import moved, squares, suppress


def random_boxes(count, spread):
    rng = np.random.default_rng(count)
    corners, sizes = rng.uniform(0, spread, (count, 2)), rng.uniform(5, 40, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32), rng.random(count, np.float32)


@pytest.mark.parametrize(("count", "spread"), [(0, 1), (1, 1), (300, 50), (2000, 500)])
@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_suppression_keeps_what_torchvision_keeps(count, spread, overlap):
    boxes, scores = random_boxes(count, spread)
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()
    np.testing.assert_array_equal(suppress(boxes, scores, overlap), expected)


def test_suppression_against_the_smaller_box():
    boxes = np.array([[0, 0, 100, 100], [10, 10, 30, 30], [90, 90, 130, 130]], np.float32)
    scores = np.array([0.8, 0.9, 0.7], np.float32)
    assert suppress(boxes, scores, 0.7, of_smaller=True).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.7).tolist() == [1, 0, 2]


def test_suppression_of_many_boxes_takes_little_memory(run_python):
    # All of them are kept. The shares of all pairs would take 10 GB.
    code = """
        import resource
        import numpy as np
        from rmn_hub.detection.boxes import suppress
        corners = np.stack(np.meshgrid(np.arange(160), np.arange(100)), -1).reshape(-1, 2).astype(np.float32)
        boxes = np.concatenate([corners, corners + 0.9], axis=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kept = suppress(boxes, np.ones(len(boxes), np.float32), 0.5)
        print(len(kept), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000)
    """
    assert run_python(code) == "16000 True"


def test_boxes_are_moved_in_parts_of_their_size_and_made_square():
    boxes = np.array([[10, 20, 30, 60]], np.float32)
    assert moved(boxes, np.array([[0.5, -0.25, 0, 1]], np.float32)).tolist() == [[20, 10, 30, 100]]
    assert squares(boxes).tolist() == [[0, 20, 40, 60]]
