"""One path for every image: what people have as a face crop, and what comes out for the network."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from skimage import data
from transformers import AutoImageProcessor

from rmn_hub import RMNConfig, RMNImageProcessor


@pytest.fixture(scope="module")
def processor():
    return RMNImageProcessor(size={"height": 48, "width": 48})


@pytest.fixture(scope="module")
def colours():
    """The astronaut's face, 96 x 80 pixels."""
    return data.astronaut()[70:166, 180:260]


@pytest.fixture(scope="module")
def luma(colours):
    return np.array(Image.fromarray(colours).convert("L"))


def pixels(processor, images, **settings):
    return processor(images, return_tensors="pt", **settings)["pixel_values"]


def test_grey_then_size_then_three_equal_channels_in_0_to_1(processor, colours, luma):
    found = pixels(processor, Image.fromarray(colours))
    assert (found.shape, found.dtype) == ((1, 3, 48, 48), torch.float32)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
    resized = np.array(Image.fromarray(luma).resize((48, 48), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found[0, 0], resized / 255, atol=1e-6)


FORMS = {
    "PIL": Image.fromarray,
    "uint8": lambda array: array,
    "floats": lambda array: array / 255,
    "half floats": lambda array: (array / 255).astype(np.float16),
    "16 bits": lambda array: array.astype(np.uint16) * 257,
    "not contiguous": lambda array: np.asfortranarray(array),
    "tensor": torch.tensor,
    "float tensor": lambda array: torch.tensor(array) / 255,
    "bfloat16 tensor": lambda array: (torch.tensor(array) / 255).bfloat16(),
    "with gradients": lambda array: (torch.tensor(array) / 255).requires_grad_(),
    "list": lambda array: [array],
    "nested lists": lambda array: [[Image.fromarray(array)]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_the_same(processor, colours, luma, form):
    for array in (colours, luma):
        expected = pixels(processor, Image.fromarray(array))
        # bfloat16 holds eight bits of a number: half a step of 1/255 is all it can lose.
        tolerance = 1.01 / 255 if form == "bfloat16 tensor" else 0
        torch.testing.assert_close(pixels(processor, FORMS[form](array)), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda array: array.transpose(2, 0, 1),
        lambda array: torch.tensor(array.transpose(2, 0, 1)),
        lambda array: torch.tensor(array.transpose(2, 0, 1))[None] / 255,
        lambda array: array[None],
        lambda array: np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
        lambda array: Image.fromarray(array).convert("RGBA"),
    ],
)
def test_channels_may_come_first_or_last_and_alpha_may_be_there(processor, colours, arrange):
    assert torch.equal(pixels(processor, arrange(colours)), pixels(processor, colours))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_every_mode_of_pil(processor, luma, mode):
    grey = Image.fromarray(luma)
    if mode == "I;16":
        image = Image.fromarray(luma.astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.merge("LAB", [grey, Image.new("L", grey.size, 128), Image.new("L", grey.size, 128)])
    elif mode == "PA":
        image = grey.convert("P").convert("PA")
    else:
        image = grey.convert("RGB").convert(mode) if mode in ("CMYK", "HSV") else grey.convert(mode)
    assert image.mode == mode
    # Two colours are not many, and LAB's lightness is no luma; the others lose a few steps at most.
    tolerance = 1 if mode in ("1", "LAB") else 3 / 255
    torch.testing.assert_close(pixels(processor, image), pixels(processor, grey), atol=tolerance, rtol=0)


def test_floats_of_a_pil_image_may_be_in_0_to_1(processor, luma):
    image = Image.fromarray((luma / 255).astype(np.float32))
    assert image.mode == "F"
    assert torch.equal(pixels(processor, image), pixels(processor, luma))


def test_transparency_lies_on_white(processor, luma):
    clear = np.dstack([luma, luma, luma, np.zeros_like(luma)])
    palette = Image.fromarray(luma).convert("P")
    palette.info["transparency"] = bytes(256)
    for image in (clear, Image.fromarray(clear), palette):
        assert (pixels(processor, image) == 1).all()


def test_a_path_gives_what_its_image_gives(processor, colours, tmp_path):
    clear = Image.fromarray(np.dstack([colours, np.zeros_like(colours[..., :1])]))
    deep = Image.fromarray(np.arange(0, 65536, 16, np.uint16).reshape(64, 64))
    lying = Image.fromarray(colours)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for image, options in ((clear, {}), (deep, {}), (lying, {"exif": exif})):
        image.save(tmp_path / "image.png", **options)
        upright = image.rotate(-90, expand=True) if options else image
        assert torch.equal(pixels(processor, str(tmp_path / "image.png")), pixels(processor, upright))


def test_a_batch_gives_what_its_images_give(processor, colours, luma):
    mixed = [Image.fromarray(colours), luma, colours[:50], torch.tensor(colours[:, :33])]
    alone = torch.cat([pixels(processor, image) for image in mixed])
    assert torch.equal(pixels(processor, mixed), alone)
    assert torch.equal(pixels(processor, np.stack([colours, colours])), pixels(processor, [colours, colours]))


def test_rounding_errors_of_floats_are_no_mistake(processor, colours):
    floats = colours / 255 * (1 + 1e-6)
    assert floats.max() > 1
    assert torch.equal(pixels(processor, floats), pixels(processor, colours))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "of type NoneType"),
        (3, "of type int"),
        (b"bytes", "of type bytes"),
        ([], "at least one"),
        ([[], []], "at least one"),
        (np.zeros((0, 48), np.uint8), r"shape \(0, 48\)"),
        (Image.new("L", (0, 5)), "0 x 5"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.zeros((5, 6, 7, 8, 9)), r"shape \(5, 6, 7, 8, 9\)"),
        (np.zeros((5, 6, 7)), r"shape \(5, 6, 7\)"),
        (np.zeros((48, 48), np.int64), "dtype int64"),
        (np.zeros((48, 48), bool), "dtype bool"),
        (torch.zeros(3, 48, 48, dtype=torch.int32), "dtype int32"),
        (np.array([["a", "b"]]), "dtype <U1"),
        (np.full((48, 48), np.nan), "floats .*0..1"),
        (np.full((48, 48), np.inf), "floats .*0..1"),
        (np.full((48, 48), 255.0), "floats .*0..1"),
        (np.full((48, 48), -0.1), "floats .*0..1"),
        (Image.fromarray(np.full((48, 48), np.nan, np.float32)), "in 0..65535"),
        (Image.fromarray(np.full((48, 48), -1, np.int32)), "in 0..65535"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(processor, image, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        processor(image)
    assert "\n" not in str(caught.value)


def test_one_bad_image_of_many_is_refused(processor, luma):
    with pytest.raises(ValueError, match="floats"):
        processor([luma, luma / 1.0])


def test_mean_and_deviation_when_asked_for(colours):
    plain = pixels(RMNImageProcessor(), colours)
    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    found = pixels(RMNImageProcessor(do_normalize=True, image_mean=mean, image_std=deviation), colours)
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.equal(pixels(RMNImageProcessor(do_normalize=True), colours), plain)


def test_steps_can_be_switched_off(processor, colours, luma):
    assert pixels(processor, colours, do_resize=False).shape == (1, 3, 96, 80)
    with pytest.raises(ValueError, match="different sizes"):
        pixels(processor, [colours, colours[:50]], do_resize=False)
    assert torch.equal(
        pixels(processor, luma, do_resize=False, do_rescale=False)[0], torch.tensor(luma).expand(3, -1, -1)
    )
    coloured = pixels(processor, colours, do_resize=False, do_grayscale=False)[0]
    np.testing.assert_allclose(coloured.permute(1, 2, 0), colours / 255, atol=1e-6)


@pytest.mark.parametrize(
    "form", ["floats", "half floats", "not contiguous floats", "float tensor", "bfloat16 tensor", "PIL's floats"]
)
@pytest.mark.parametrize("settings", [{}, {"do_resize": False}, {"do_grayscale": False}])
def test_floats_stay_in_0_to_1_without_rescaling(processor, luma, form, settings):
    """transformers' advice where pixels are in 0..1 already."""
    forms = {
        **FORMS,
        "not contiguous floats": lambda array: np.asfortranarray(array / 255),
        "PIL's floats": lambda array: Image.fromarray((array / 255).astype(np.float32)),
    }
    image = forms[form](luma)
    found = pixels(processor, image, do_rescale=False, **settings)
    assert found.dtype == torch.float32
    assert torch.equal(found, pixels(processor, image, **settings))


def test_floats_beside_other_images_stay_in_0_to_1_without_rescaling(processor, luma):
    mixed = pixels(processor, [luma, np.ones_like(luma, float)], do_rescale=False)
    assert (mixed[0].max() > 1, mixed[1].unique().tolist()) == (True, [1])


def test_the_authors_input_within_the_tolerance_that_the_docstring_gives():
    """OpenCV's bilinear resize without OpenCV: an upscale is the same formula, up to how it rounds."""
    luma = np.array(Image.fromarray(data.astronaut()[70:166, 180:276]).convert("L").resize((48, 48)))
    place = (np.arange(224) + 0.5) * 48 / 224 - 0.5
    low = np.floor(place).astype(int)
    part = place - low
    near, far = low.clip(0, 47), (low + 1).clip(0, 47)
    rows = luma[near] * (1 - part)[:, None] + luma[far] * part[:, None]
    expected = np.rint(rows[:, near] * (1 - part) + rows[:, far] * part) / 255
    found = pixels(RMNImageProcessor(), luma)[0, 0].numpy()
    assert np.abs(found - expected).max() <= 1.001 / 255


def test_saved_and_loaded_also_by_transformers(processor, colours, tmp_path):
    processor.save_pretrained(tmp_path)
    RMNConfig(image_size=48, stem="small", mask_depths="auto").save_pretrained(tmp_path)
    for loaded in (RMNImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is RMNImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(pixels(loaded, colours), pixels(processor, colours))


def test_the_mean_and_deviation_of_example_scripts_change_nothing(processor, tmp_path):
    from torchvision import transforms

    pixels = torch.rand(3, 8, 8)
    assert torch.equal(transforms.Normalize(processor.image_mean, processor.image_std)(pixels), pixels)
    image = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).astype(np.uint8).reshape(64, 64))
    values = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(image, do_normalize=True, return_tensors="pt")["pixel_values"], values)
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert (again.image_mean, again.image_std, again.do_normalize) == ((0, 0, 0), (1, 1, 1), False)
