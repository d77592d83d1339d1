"""Pictures in: whatever a user calls one, as an upright RGB picture, or one sentence that says why not."""

import io
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import InputError

# Four times the pixels of a good phone's photo: 240 MB as RGB. Checked in a file's header, before anything is decoded.
MAX_PIXELS = 80_000_000
# Nobody's face is recognisable in fewer pixels.
MIN_SIDE = 10
# Only formats of pictures. Pillow would read others by starting a program (EPS) or by following a stream (MPEG).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# What a folder is searched for. A file that is named itself may be called anything.
SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"} | {
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}


@dataclass(frozen=True)
class LoadedImage:
    """
    A picture ready for the detector.

    Args:
        image: RGB, upright (its EXIF rotation applied), transparency on white.
        source: its path, or the name that the caller gave it.
        message: a sentence when something of the input was left out, else `None`.
    """

    image: Image.Image
    source: str
    message: str | None = None


def load_image(image: Any, name: str = "the image") -> LoadedImage:
    """
    Reads one picture.

    Args:
        image: a path (`str` or `os.PathLike`), the bytes of a picture's file, a `PIL.Image.Image`, or a numpy array in
            RGB order (not BGR): `H x W`, `H x W x 1`, `H x W x 3` or `H x W x 4` (with alpha), uint8 in 0..255, uint16
            in 0..65535, or floats in 0..1.
        name: what to call a picture that has no path, in `source` and in sentences.

    Raises:
        InputError: it is no picture, cannot be read, is smaller than `MIN_SIDE` pixels on a side, or has more than
            `MAX_PIXELS` pixels.
    """
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        with _open_path(Path(name)) as opened:
            return _prepare(opened, name)
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
        if not data:
            raise InputError(f"{name} is empty: give the bytes of a picture's file")
        return _prepare(_open(io.BytesIO(data), name), name)
    if isinstance(image, np.ndarray):
        return _prepare(_from_array(image, name), name)
    if isinstance(image, Image.Image):
        return _prepare(image, name)
    raise InputError(
        f"{name} is of type {type(image).__name__}: give a path, the bytes of a file, a PIL image or a numpy array"
    )


def is_folder(path: Path) -> bool:
    """Whether there is a folder; no where nobody may look, or where the name cannot be one."""
    try:
        return path.is_dir()
    except OSError:
        return False


def find_images(
    path: Path, skip: Collection[Path] = (), on_error: Callable[[InputError], None] | None = None
) -> list[Path]:
    """
    The pictures of a folder and of the folders in it, sorted by path; hidden files are left out. A path that is no
    folder is answered as it is, whether it can be read or not.

    Args:
        path: a file or a folder.
        skip: folders not to look into (those that outputs are written to).
        on_error: what to do with a folder in it that cannot be read; it is then left out. Without it, the error is
            raised.

    Raises:
        InputError: the folder cannot be read or holds no picture.
    """
    if not is_folder(path):
        return [path]
    skipped = {os.path.realpath(folder) for folder in skip}
    problems: list[OSError] = []
    found = []
    for folder, folders, files in os.walk(path, onerror=problems.append):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(folder) / name) not in skipped
        ]
        found += [
            Path(folder) / name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    for problem in problems:
        error = InputError(f"{problem.filename} cannot be read: {problem.strerror}")
        if on_error is None or not found:
            raise error from problem
        on_error(error)
    if not found:
        raise InputError(f"{path} is a folder without pictures: give a picture, or a folder that holds some")
    return sorted(found)


def _open_path(path: Path) -> Image.Image:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the path of a picture")
        if path.parts[:1] in (("http:",), ("https:",)):
            raise InputError(f"{path} is an address: download the picture first")
        if not path.exists():
            raise InputError(f"{path} does not exist: check the path")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: give the path of a picture")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: save or copy the picture again")
        return _open(path, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    """Reads the header only."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken metadata that does not matter here
            return Image.open(file, formats=[form for form in FORMATS if form in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_too_large(name)) from error
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a broken header makes decoders raise nearly everything
        raise InputError(f"{name} is not a picture: give a JPEG, PNG, WebP, GIF, BMP or TIFF file") from error


def _prepare(image: Image.Image, name: str) -> LoadedImage:
    """Checks the size, decodes the first frame, turns it upright and makes it RGB."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(_too_large(name, f"{width} x {height} pixels"))
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} is {width} x {height} pixels: a picture needs at least {MIN_SIDE} on each side for a face"
        )
    message = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            # MPO is how phones save a photo with a second view or a thumbnail: no frames of anything.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                message = f"{name} has several frames: only the {'current' if image.tell() else 'first'} one was read."
            image.load()
            # Before the mode changes: some conversions lose the EXIF block. (And a copy only where one is needed.)
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            image = _to_rgb(image, name)
    except InputError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, ...
        raise InputError(f"{name} is truncated or damaged: save or copy the picture again") from error
    return LoadedImage(image, name, message)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16), name)
    if image.mode in ("I", "F"):
        return _from_wide(np.asarray(image), name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_wide(values: np.ndarray, name: str) -> Image.Image:
    """Pixels of 32 bits, whose range the file does not say: 0..1 in floats, else 8 or 16 bits by the largest one."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name} holds pixels that are not finite numbers: replace them first")
    if low < 0 or high > 65535:
        raise InputError(f"{name} has pixels from {low:g} to {high:g}: scale them to 0..255 first")
    if values.dtype.kind == "f" and high <= 1:
        return _from_array(values, name)
    return _from_array(values.astype(np.uint8 if high <= 255 else np.uint16), name)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise InputError(
            f"{name} is an array of shape {array.shape}: give height x width, or height x width x 3 in RGB order"
        )
    if array.size == 0:
        raise InputError(f"{name} is an array of shape {array.shape}: it has no pixels")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(_too_large(name, f"{array.shape[1]} x {array.shape[0]} pixels"))
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"{name} holds values that are not finite numbers: replace the NaN or infinity first")
        if low < 0 or high > 1:
            raise InputError(f"{name} holds floats from {low:g} to {high:g}: give floats in 0..1, or uint8 in 0..255")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"{name} is an array of {array.dtype}: give uint8 in 0..255, uint16, or floats in 0..1")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _too_large(name: str, size: str = "too large") -> str:
    return f"{name} is {size}: the limit is {MAX_PIXELS // 1_000_000} million pixels, make it smaller first"


__all__ = ["FORMATS", "MAX_PIXELS", "MIN_SIDE", "SUFFIXES", "LoadedImage", "find_images", "is_folder", "load_image"]
