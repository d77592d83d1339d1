"""The pyramid: levels against torch's antialiased resize, crops against torchvision's RoIAlign."""

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from rmn_hub.detection.pyramid import Pyramid


def normalized(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float().sub(127.5).div(128)


@pytest.mark.parametrize(("scale", "halvings"), [(1.0, 0), (0.7, 0), (0.35, 1), (0.1, 3)])
def test_a_level_is_the_antialiased_image(astronaut, scale, halvings):
    size = (round(400 * scale), round(512 * scale))
    image = astronaut.resize((512, 400))
    level = Pyramid(image, 12).level(size[1], size[0], scale)
    for _ in range(halvings):
        image = image.reduce(2)
    expected = torch.nn.functional.interpolate(normalized(image), size, mode="bilinear", antialias=True)[0]
    # A value of 8 bits is 0.008; what is compared is not rounded to such.
    np.testing.assert_allclose(level, expected, atol=1e-4)


@pytest.mark.parametrize("size", [24, 48])
def test_crops_are_those_of_roi_align(astronaut, size):
    image = astronaut.resize((300, 200))
    # Smaller than a crop, once to twice as large, at the border, and outside.
    boxes = [[10, 20, 20, 30], [100, 50, 140, 90], [-20, -30, 25, 15], [270, 160, 317, 207], [290, 190, 300, 200]]
    boxes = np.array([*boxes, [400, 400, 430, 430]], np.float32) + np.float32(0.37)
    expected = roi_align(normalized(image), [torch.from_numpy(boxes)], size, sampling_ratio=2, aligned=True)
    np.testing.assert_allclose(Pyramid(image, 12).crops(boxes, size), expected, atol=1e-4)


def test_large_boxes_are_taken_from_a_smaller_image(astronaut):
    image = astronaut.resize((480, 400))
    boxes = np.array([[0, 0, 390, 390], [100, 100, 200, 200]], np.float32)
    crops = Pyramid(image, 12).crops(boxes, 24)
    for box, crop, halving in zip(boxes, crops, (4, 2)):
        roi = torch.from_numpy(box[None])
        [expected] = roi_align(
            normalized(image.reduce(2**halving)), [roi], 24, spatial_scale=0.5**halving, sampling_ratio=2, aligned=True
        )
        # Halving step by step rounds to 8 bits at every step.
        np.testing.assert_allclose(crop, expected, atol=0.02)


def test_no_boxes_give_no_crops(astronaut):
    assert Pyramid(astronaut, 12).crops(np.empty((0, 4), np.float32), 24).shape == (0, 3, 24, 24)
