"""Pixel values without torch equal those of the image processor bit for bit."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rmn_hub import BUNDLED_CHECKPOINT, CheckpointError, InputError, RMNImageProcessor
from rmn_hub.engines.pixels import PixelProcessor

SETTINGS = {
    "small": {"size": {"height": 48, "width": 48}},
    "as the original": {"size": {"height": 224, "width": 224}},
    "not square": {"size": {"height": 40, "width": 64}},
    "bicubic": {"size": {"height": 48, "width": 48}, "resample": 3},
    "in colour": {"size": {"height": 48, "width": 48}, "do_grayscale": False},
    "normalised": {
        "size": {"height": 48, "width": 48},
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "scaled otherwise": {"size": {"height": 48, "width": 48}, "rescale_factor": 1 / 127.5},
    "not scaled": {"size": {"height": 48, "width": 48}, "do_rescale": False},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_pixel_values_equal_the_image_processors(case, astronaut, crops, tmp_path):
    processor = RMNImageProcessor(**SETTINGS[case])
    processor.save_pretrained(tmp_path)
    images = [
        astronaut.crop((150, 50, 290, 190)),
        astronaut.crop((150, 50, 171, 60)),
        astronaut,
        *[crop.convert("RGB") for crop in crops[:3]],
    ]
    if SETTINGS[case].get("do_grayscale", True):
        images += crops[3:6]  # grey ones
    expected = processor(images, return_tensors="np")["pixel_values"].astype(np.float32)
    for pixels in (PixelProcessor.from_folder(tmp_path), PixelProcessor.from_settings(processor.to_dict())):
        values = pixels(images)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)


def test_without_resizing_crops_must_be_of_one_size(crops):
    pixels = PixelProcessor.from_settings({"do_resize": False})
    assert pixels(crops[:2]).shape == (2, 3, 48, 48)
    with pytest.raises(InputError, match="one size"):
        pixels([crops[0], crops[1].resize((50, 50))])
    with pytest.raises(InputError, match="at least one"):
        pixels([])
    with pytest.raises(InputError, match="CMYK"):
        pixels([crops[0].convert("CMYK")])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"size": {"shortest_edge": 48}}, "size"),
        ({"size": {"height": 48, "width": 1_000_000}}, "size"),
        ({"size": {"height": 0, "width": 48}}, "size"),
        ({"size": "large"}, "size"),
        ({"resample": 77}, "resample"),
        ({"resample": "bilinear"}, "resample"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_pad": True}, "do_pad"),
        ({"do_grayscale": "yes"}, "do_grayscale"),
        ({"rescale_factor": "much"}, "rescale_factor"),
        ({"rescale_factor": float("inf")}, "rescale_factor"),
        ({"do_normalize": True}, "image_mean"),
        ({"do_normalize": True, "image_mean": [0, 0, 0], "image_std": [1, 0, 1]}, "image_std"),
        ({"do_normalize": True, "image_mean": [0, 0], "image_std": [1, 1, 1]}, "image_mean"),
        ([], "no settings"),
    ],
)
def test_settings_that_cannot_be_followed_are_named(settings, name, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=name):
        PixelProcessor.from_folder(tmp_path)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    for text in (None, "{", "\x00"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
            PixelProcessor.from_folder(tmp_path)


def test_it_imports_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from rmn_hub.engines.pixels import PixelProcessor\n"
        f"pixels = PixelProcessor.from_folder({BUNDLED_CHECKPOINT!r})\n"
        "assert pixels([Image.new('RGB', (80, 90))]).shape == (1, 3, pixels.height, pixels.width)\n"
        "assert not {'torch', 'transformers', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_crop_stays_as_it_was(astronaut):
    before = np.array(astronaut)
    PixelProcessor()([astronaut])
    np.testing.assert_array_equal(np.asarray(astronaut), before)
    assert isinstance(astronaut, Image.Image)
