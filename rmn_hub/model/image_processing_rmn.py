"""Image processor of the Residual Masking Network: from a face crop to `pixel_values`."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

try:
    from transformers.feature_extraction_utils import BatchFeature
    from transformers.image_processing_backends import PilBackend
    from transformers.image_utils import (
        ChannelDimension,
        PILImageResampling,
        SizeDict,
        infer_channel_dimension_format,
    )
    from transformers.processing_utils import ImagesKwargs
except ImportError as error:  # this file also runs where no package checks its requirements
    import transformers

    raise ImportError(
        f"The Residual Masking Network needs transformers 5.4 or newer, not {transformers.__version__}: "
        "pip install -U 'transformers>=5.4'"
    ) from error

# How far outside 0..1 a float may lie: interpolation and a division by 255 overshoot by a rounding error.
FLOAT_TOLERANCE = 1e-4


class RMNImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    Name the settings of an [`RMNImageProcessor`] beside transformers' own.

    Args:
        do_grayscale (`bool`, defaults to `True`): whether to reduce colours to luma before resizing, as FER2013 is
            grey.
    """

    do_grayscale: bool | None


class RMNImageProcessor(PilBackend):
    """
    Turn face crops into `pixel_values`, floats `(batch, 3, height, width)` in 0..1, on one path for every kind of
    input: 8 bits a channel, transparency on white, luma (ITU-R 601, rounded to 8 bits), bilinear resize with
    antialiasing, three equal channels, times 1/255, and mean and standard deviation when `do_normalize` is on (the
    original uses neither).

    Takes PIL images of any mode, numpy arrays and torch tensors (`H x W`, `H x W x C`, `C x H x W`, or four dimensions
    with the batch first), and lists of them in any nesting; C is 1, 3 (RGB) or 4 (RGB and alpha). Arrays are uint8 in
    0..255, uint16 in 0..65535 or floats in 0..1. They are rounded to 8 bits, so that the result is that of the same
    image in uint8. A path is read as a PIL image and turned upright by its EXIF orientation. transformers decodes
    addresses and base64 text, and drops their transparency.

    The authors' package resizes with OpenCV. From 48 to 224 pixels the two differ by at most 1/255 (0.24/255 in the
    mean). Where a crop is larger than `size` they differ by more (a face from 96 to 48 pixels by 2.3/255 in the mean),
    because OpenCV does not antialias when it shrinks.

    Args:
        size (`dict[str, int]`, defaults to `{"height": 224, "width": 224}`): what to resize to, in pixels.
        resample (`PIL.Image.Resampling`, defaults to `BILINEAR`): filter of the resize.
        do_convert_rgb, do_grayscale, do_resize, do_rescale (`bool`, default to `True`): switch a step off with
            `False`. Without `do_convert_rgb`, an image that is neither RGB nor grey keeps its channels. Without
            `do_rescale`, floats stay in 0..1, and all other images become uint8 in 0..255.
        do_normalize (`bool`, defaults to `False`): whether to subtract `image_mean` and divide by `image_std`, one
            number for each channel, after the scaling to 0..1.
        image_mean, image_std (`list[float]`, default to `[0, 0, 0]` and `[1, 1, 1]`): values that change nothing, which
            torchvision's `Normalize(processor.image_mean, processor.image_std)` takes.

    Example:
        >>> processor = RMNImageProcessor(size={"height": 48, "width": 48})
        >>> processor(Image.new("RGB", (80, 90)), return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 48, 48])

    Raises:
        ValueError: when called with something else than images, with an empty one, with floats that are outside 0..1
            or not finite, or with another dtype.
    """

    # `save_pretrained` carries this file along.
    _auto_class = "AutoImageProcessor"
    valid_kwargs = RMNImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}  # noqa: RUF012 - transformers declares class defaults so and copies them
    do_convert_rgb = True
    do_grayscale = True
    do_resize = True
    do_rescale = True
    do_normalize = False
    image_mean = [0.0, 0.0, 0.0]  # noqa: RUF012
    image_std = [1.0, 1.0, 1.0]  # noqa: RUF012

    def to_dict(self) -> dict[str, Any]:
        """Return all settings, as `preprocessor_config.json` has them."""
        settings = super().to_dict()
        module = type(self).__module__.rpartition(".")[2]
        if module == "__main__":  # a notebook's class, whose code cannot be carried
            settings.pop("auto_map", None)
        elif settings.get("auto_map"):
            # One name for each backend. Of a single one, transformers' pipelines make the name of a video processor
            # and ask whether its code may be run.
            name = f"{module}.{type(self).__name__}"
            settings["auto_map"] = {self._auto_class: [name, name]}
        return settings

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Return a flat list of single images. Grey arrays of two dimensions are images, unlike in the base class."""
        flat = [self._read(image) if isinstance(image, str) else image for image in _flatten(images)]
        if not flat:
            raise ValueError("`images` must hold at least one image")
        return flat

    def _read(self, name: str) -> Image.Image:
        """Return the image of a path, upright and as it is in the file, or what transformers makes of an address."""
        if not os.path.isfile(name):  # noqa: PTH113 - of base64 text, pathlib says that the name is too long
            return self.fetch_images(name)
        with Image.open(name) as image:
            return ImageOps.exif_transpose(image)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        do_grayscale: bool | None = None,
        do_rescale: bool | None = True,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """
        Turn one image into uint8 `(1, H, W)` luma, or `(C, H, W)` with `do_grayscale` or `do_convert_rgb` off.

        With `do_rescale` off, an image of floats gives the same numbers as float32: `_preprocess` has to scale them
        back to 0..1.
        """
        is_float = False
        if isinstance(image, Image.Image):
            if image.width < 1 or image.height < 1:
                raise ValueError(f"`images` must have pixels: one has {image.width} x {image.height}")
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                image = _wide_to_array(image)
        if not isinstance(image, Image.Image):
            image = _to_array(image, input_data_format)
            is_float = np.issubdtype(image.dtype, np.floating)
            image = Image.fromarray(_to_uint8(image))
        if do_convert_rgb and (image.mode not in ("L", "RGB") or image.has_transparency_data):
            image = _to_rgb(image)
        if do_grayscale and image.mode == "RGB":
            image = image.convert("L")
        array = np.array(image)
        array = array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
        return array.astype(np.float32) if is_float and not do_rescale else array

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        were_floats = [image.dtype == np.float32 for image in images]
        if do_resize:
            images = [self.resize(image=image, size=size, resample=resample) for image in images]
        images = [self.rescale(image, 1 / 255) if is_float else image for image, is_float in zip(images, were_floats)]
        # After the resize: it costs a third for one grey plane.
        images = [np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image for image in images]
        batch = super()._preprocess(
            images, do_resize=False, size=size, resample=resample, return_tensors=None, **kwargs
        )
        if return_tensors is not None and len({image.shape for image in batch["pixel_values"]}) > 1:
            raise ValueError("`images` must have one size without `do_resize`: these have different sizes")
        return batch.convert_to_tensors(return_tensors)


def _flatten(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in _flatten(item)]
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _wide_to_array(image: Image.Image) -> np.ndarray:
    """
    Return a grey PIL image of 16 or 32 bits as floats in 0..1, uint8 or uint16. Its mode leaves the range open: 0..1 in
    floats, else 8 or 16 bits.
    """
    array = np.asarray(image)
    if image.mode == "F" and array.max() <= 1 + FLOAT_TOLERANCE:
        return array
    if not (array.min() >= 0 and array.max() <= 65535):  # NaN comes here, too
        raise ValueError(f"`images` of mode {image.mode} must have values in 0..65535: scale them to 0..255 in uint8")
    wide = image.mode.startswith("I;") or array.max() > 255
    return array.astype(np.uint16 if wide else np.uint8)


def _to_array(image: Any, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """Return one image as an array `H x W`, `H x W x 3` or `H x W x 4`, its dtype unchanged."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"`images` must be PIL images, numpy arrays or torch tensors: one is of type {type(image).__name__}"
        )
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"`images` must be H x W, H x W x C or C x H x W with pixels: one has the shape {image.shape}")
    if image.ndim == 3:
        try:
            layout = input_data_format or infer_channel_dimension_format(image, num_channels=(1, 3, 4))
        except ValueError:
            layout = None
        if layout == ChannelDimension.FIRST:
            image = np.moveaxis(image, 0, -1)
        if layout is None or image.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"`images` must have 1, 3 or 4 channels, in front or at the end: one has the shape {image.shape}"
            )
        image = image[..., 0] if image.shape[-1] == 1 else image
    return image


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        # In this order: any comparison with NaN is false.
        if not (array.min() >= -FLOAT_TOLERANCE and array.max() <= 1 + FLOAT_TOLERANCE):
            raise ValueError("`images` of floats must have values in 0..1: divide by 255, or give uint8 in 0..255")
        array = np.rint(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"`images` must be uint8 in 0..255 or floats in 0..1: one has the dtype {array.dtype}")
    return np.ascontiguousarray(array)


__all__ = ["RMNImageProcessor"]
