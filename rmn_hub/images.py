"""
The only decoder: whatever a user calls an image, as an upright RGB image, or one sentence that states why not.

Training, evaluation and the recognizer read images here, so that all of them see the same pixels: transparency on
white, greys of 16 and 32 bits scaled to 8, the EXIF rotation applied, the first frame of an animation.
"""

import base64
import binascii
import contextlib
import errno
import io
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .errors import InputError, MissingPackageError
from .files import walk

# What is one image for certain. (An array of four dimensions is several, and a tensor cannot be named without torch.)
OneImage: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image

# Four times the pixels of a good phone's photo: 240 MB as RGB. Checked in a file's header, before anything is decoded.
MAX_PIXELS = 80_000_000
# A face in fewer pixels cannot be recognized.
MIN_SIDE = 10
# Only formats of images. Pillow would read others by starting a program (EPS) or by following a stream (MPEG).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# What a folder is searched for. A file that is named itself may be called anything.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
# What linked folders are counted as among the files that are left out: no suffix is so called.
LINKED = "/"
# How far outside 0..1 a float may lie: interpolation and a division by 255 overshoot by a rounding error.
FLOAT_TOLERANCE = 1e-4
# A progressive JPEG is decoded once per scan. Cameras and editors write about 10; 2,000 in 156 KB took 28 s.
MAX_SCANS = 100
# How the files of phones begin that Pillow reads only with the extra `heif`: bytes 4 to 12.
_HEIF_BRANDS = {b"ftyp" + brand for brand in b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split()}


@dataclass(frozen=True)
class LoadedImage:
    """
    An image ready for the detector.

    Args:
        image: RGB, upright (its EXIF rotation applied), transparency on white.
        source: its path, or the name that the caller gave it.
        width: width in pixels of the upright image as it was handed over: twice that of `image` when a huge JPEG was
            decoded at half its size, else the same.
        height: likewise.
        message: a sentence when something of the input was left out, else `None`.
    """

    image: Image.Image
    source: str
    width: int
    height: int
    message: str | None = None


def load_image(image: Any, name: str = "the image", *, max_pixels: int = MAX_PIXELS) -> LoadedImage:
    """
    Read one image.

    Args:
        image: a path (`str` or `os.PathLike`), the bytes of an image file, a file opened for reading bytes, a `data:`
            URL, a `PIL.Image.Image`, a numpy array or a torch tensor. Arrays and tensors are `H x W`, `H x W x C` or
            `C x H x W` with C of 1, 3 (RGB order, not BGR) or 4 (with alpha); uint8 in 0..255, uint16 in 0..65535, or
            floats in 0..1.
        name: what to call an image that has no path, in `source` and in sentences.
        max_pixels: most pixels that an image may have. A JPEG of up to four times as many is decoded at half its size.

    Raises:
        InputError: it is not an image, cannot be read, is smaller than `MIN_SIDE` pixels on a side, or has more than
            `max_pixels` pixels.
    """
    name = name_of(image, name)
    reader = _Reader(name, max_pixels)
    if isinstance(image, str) and image[:5].lower() == "data:":
        return reader.read(io.BytesIO(_from_data_url(image, name)))
    if isinstance(image, (str, os.PathLike)):
        return reader.read_path(Path(name))
    if isinstance(image, Image.Image):
        whole = _undecoded(image, name) if image.width * image.height > max_pixels else None
        return reader.finish(image) if whole is None else reader.read(io.BytesIO(whole))
    if _is_array(image):
        return reader.finish(_from_array(_as_array(image), shown(name), max_pixels))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return reader.read(io.BytesIO(image))
    if callable(getattr(image, "read", None)):
        return reader.read(io.BytesIO(_read_all(image, name)))
    raise InputError(
        f"{shown(name)} of type {type(image).__name__} must be a path, the bytes of an image file, a file opened for "
        "reading bytes, a PIL image, a numpy array or a torch tensor"
    )


def name_of(image: Any, name: str) -> str:
    """Return the path of an image or of an open file, or `name` where it has none."""
    if isinstance(image, str) and image[:5].lower() == "data:":
        return name
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image)
    path = getattr(image, "name", None) if callable(getattr(image, "read", None)) else None
    return path if isinstance(path, str) and path else name


def as_images(images: Any) -> Iterable[Any] | None:
    """
    Return the images of what a caller handed over for several, or `None` when it is one image.

    Args:
        images: one image in any form that `load_image` takes; or an iterable of them, an array `N x H x W x C` of N
            images, or an array of paths.

    Raises:
        InputError: it is a table or a dictionary, whose images have no agreed place.
    """
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(images, "read"):
        return None
    if _is_array(images):
        if images.ndim == 4:
            return list(images)
        kind = getattr(images.dtype, "kind", "")
        return images.tolist() if images.ndim == 1 and kind in "OU" else None
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise InputError(
            f"images of type {type(images).__name__} must be one image or a list of images: give a list of its paths"
        )
    return images if isinstance(images, Iterable) else None


def shown(value: Any, limit: int = 80) -> str:
    """Return a name or value for a message: on one line, printable, and cut in the middle when it is long."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        half = (limit - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; false where it cannot be looked up, or where the name cannot be one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def find_images(
    path: Path,
    skip: Collection[Path] = (),
    on_error: Callable[[InputError], object] | None = None,
    on_left_out: Callable[[Mapping[str, int]], object] | None = None,
) -> list[Path]:
    """
    Return the images of a folder and of the folders in it, sorted by path, without hidden files and folders, linked
    folders, and those called `__...` (`__MACOSX`). A path that is not a folder is returned as it is, readable or not.

    Args:
        path: a file or a folder.
        skip: folders not to look into (those that outputs are written to).
        on_error: what to do with a folder in it that cannot be read; it is then left out. Without it, the error is
            raised.
        on_left_out: called with the number of the other files by suffix (`{".mp4": 2}`), and of linked folders as
            `LINKED`, when there are any; hidden ones are not counted. `left_out_sentence` makes a sentence of it.

    Raises:
        InputError: the folder cannot be read or holds no image.
    """
    if not is_folder(path):
        return [path]
    problems: list[OSError] = []
    found: list[Path] = []
    others: Counter[str] = Counter()
    for files, linked in walk(path, skip, (".", "__"), problems.append):
        others.update([LINKED] * linked)
        for file in files:
            suffix = file.suffix.lower()
            if suffix in SUFFIXES and (file.is_file() or not file.exists()):
                found.append(file)  # a broken link is reported when it is opened; a pipe would never end
            else:
                others[suffix] += 1
    for problem in problems:
        error = InputError(f"{shown(problem.filename)} cannot be read: {problem.strerror}")
        if on_error is None or not found:
            raise error from problem
        on_error(error)
    if not found:
        left_out = f" ({left_out_sentence(others)})" if others else ""
        raise InputError(f"{shown(path)} is a folder without images{left_out}: give an image, or a folder of images")
    if others and on_left_out is not None:
        on_left_out(dict(others.most_common()))
    return sorted(found)


def left_out_sentence(counts: Mapping[str, int]) -> str:
    """Return `find_images`'s counts of other files as a sentence: `3 files are not images: 2 .mp4, 1 .txt`."""
    files = {suffix: count for suffix, count in counts.items() if suffix != LINKED}
    parts = [f"{count} {shown(suffix, 20) or 'without a suffix'}" for suffix, count in list(files.items())[:6]]
    which = "file is not an image" if sum(files.values()) == 1 else "files are not images"
    sentences = (
        [f"{sum(files.values())} {which}: {', '.join(parts)}{', ...' if len(files) > 6 else ''}"] if files else []
    )
    if linked := counts.get(LINKED):
        which = "linked folder is" if linked == 1 else "linked folders are"
        sentences.append(f"{linked} {which} left out (give what a link leads to)")
    return "; ".join(sentences)


@dataclass(frozen=True)
class _Reader:
    """Reads one image, which messages call `name`."""

    name: str
    max_pixels: int

    @property
    def shown(self) -> str:
        return shown(self.name)

    def read_path(self, path: Path) -> LoadedImage:
        if not self.name:
            raise InputError("the path of an image must not be empty")
        if path.parts[:1] in (("http:",), ("https:",)):
            raise InputError(f"{self.shown} is an address: download the image first")
        if is_folder(path):
            raise InputError(f"{self.shown} is a folder: give the path of an image")
        try:
            # Without O_NONBLOCK, opening a pipe that nothing is written to would wait for ever.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
                mode = os.fstat(descriptor).st_mode
                if stat.S_ISFIFO(mode):
                    os.set_blocking(descriptor, True)
                    return self.read(io.BytesIO(file.read()))
                if not stat.S_ISREG(mode):
                    raise InputError(f"{self.shown} is not a regular file: give the path of an image")
                return self.read(file)
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.shown} does not exist: {self._remedy()}") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(f"{self.shown} is too long for a path: {self._remedy()}") from error
            raise InputError(f"{self.shown} cannot be read: {error.strerror or error}") from error

    def _remedy(self) -> str:
        return "give base64 text as a data: URL" if _is_base64(self.name) else "check the path"

    def read(self, file: IO[bytes]) -> LoadedImage:
        """Read an open file that can seek."""
        prefix = file.read(16)
        if not prefix:
            raise InputError(f"{self.shown} is empty: save or copy the image again")
        # Pillow's own looks at the first bytes stumble over files of three.
        image = self._opened(file, prefix.ljust(16, b"\0"))
        if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
            self._count_scans(file)
        # Closes the second handles that some plugins keep.
        with image:
            return self.finish(image)

    def _opened(self, file: IO[bytes], prefix: bytes) -> Image.Image:
        """
        Read the header only, by the formats that are named, and by each one's own look at the first bytes.

        `Image.open` does the same, but it has a limit of pixels for the whole process, which is not ours to change.
        """
        Image.init()
        problem: Exception | None = None
        for form in FORMATS:
            factory, accept = Image.OPEN.get(form, (None, None))
            accepted = factory is not None and (accept is None or accept(prefix))
            if factory is None or not accepted or isinstance(accepted, str):
                continue
            try:
                file.seek(0)
                return factory(file, "")
            except Exception as error:  # a broken header makes decoders raise nearly everything
                problem = problem if accept is None else error
        if prefix[4:12] in _HEIF_BRANDS and "HEIF" not in Image.OPEN:
            try:
                from pillow_heif import HeifImageFile
            except ImportError as error:
                raise MissingPackageError(
                    f"{self.shown} is a HEIC image: pip install 'rmn-hub[heif]' to read it"
                ) from error
            try:
                file.seek(0)
                return HeifImageFile(file)
            except Exception as error:
                problem = error
        if problem is None:
            raise InputError(f"{self.shown} is not an image: give a JPEG, PNG, WebP, GIF, BMP or TIFF file")
        if "MAX_TEXT" in str(problem):
            raise InputError(f"{self.shown} holds too much text: save it again without its metadata") from problem
        raise self._damaged(problem) from problem

    def _count_scans(self, file: IO[bytes]) -> None:
        position = file.tell()
        file.seek(0)
        scans, last = 0, b""
        while block := file.read(1 << 20):
            # In compressed data every byte 0xff is followed by 0: this pair marks a scan's start.
            scans += (last + block).count(b"\xff\xda")
            last = block[-1:]
        file.seek(position)
        if scans > MAX_SCANS:
            raise InputError(f"{self.shown} is a JPEG of {scans} scans: save it again, the limit is {MAX_SCANS}")

    def _damaged(self, error: Exception) -> InputError:
        reason = shown(str(error).strip(" .") or type(error).__name__)
        return InputError(f"{self.shown} is truncated or damaged ({reason}): save or copy the image again")

    def finish(self, image: Image.Image) -> LoadedImage:
        """Check the size, decode the first frame, turn it upright and make it RGB."""
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise InputError(
                f"{self.shown} is {width} x {height} pixels: an image needs at least {MIN_SIDE} on each side for a face"
            )
        sentences = []
        if width * height > self.max_pixels:
            too_large = width * height > 4 * self.max_pixels or image.format not in ("JPEG", "MPO")
            # A JPEG's blocks can be decoded at half their size, for a quarter of the memory.
            if too_large or image.draft(image.mode, (width // 2, height // 2)) is None:
                raise InputError(_too_large(self.shown, width, height, self.max_pixels))
            sentences.append(f"{self.shown} has {width} x {height} pixels: it was read at half its size.")
        try:
            # MPO is how phones save a photo with a second view or a thumbnail: no frames of anything.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                which = "current" if image.tell() else "first"
                sentences.append(f"{self.shown} has several frames: only the {which} one was read.")
            image.load()
            # Before the mode changes: some conversions lose the EXIF block. (And a copy only where one is needed.)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation != 1:
                image = ImageOps.exif_transpose(image)
                if orientation in (5, 6, 7, 8):
                    width, height = height, width
            image = _to_rgb(image, self.shown, self.max_pixels)
        except InputError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, ...
            raise self._damaged(error) from error
        if not sentences or image.size == (width, height):
            width, height = image.size
        return LoadedImage(image, self.name, width, height, " ".join(sentences) or None)


def _undecoded(image: Image.Image, name: str) -> bytes | None:
    """Return the file of a caller's JPEG that is not decoded, or `None`: a draft must leave the caller's whole."""
    file = getattr(image, "fp", None)
    if file is None or image.format not in ("JPEG", "MPO") or not getattr(image, "tile", None) or image.tell():
        return None
    return _read_all(file, name)


def _read_all(file: Any, name: str) -> bytes:
    try:
        # A file that was just written to stands at its end.
        if callable(getattr(file, "seek", None)):
            with contextlib.suppress(OSError, io.UnsupportedOperation):  # a pipe is read from where it is
                file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(name)} cannot be read: {shown(error)}") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{shown(name)} must be a file opened for reading bytes ('rb'), not {type(data).__name__}")
    return bytes(data)


def _from_data_url(url: str, name: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError("it has no comma")
        data = unquote_to_bytes(body)
        if head.lower().endswith(";base64"):
            return base64.b64decode(b"".join(data.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{shown(name)} is a damaged data: URL ({error}): encode the image again") from error
    return data


def _is_base64(text: str) -> bool:
    try:
        return len(text) >= 200 and bool(base64.b64decode("".join(text.split()), validate=True))
    except ValueError:
        return False


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(image).astype(np.uint16), name, max_pixels)
    if image.mode in ("I", "F"):
        return _from_wide(np.asarray(image), name, max_pixels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_wide(values: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    """Scale pixels of 32 bits, whose range a file does not state: 0..1 in floats, else 8 or 16 bits by the largest."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name} holds pixels that are not finite numbers: replace them first")
    if values.dtype.kind == "f" and high <= 1 + FLOAT_TOLERANCE:
        return _from_array(values, name, max_pixels)
    if low < 0 or high > 65535:
        raise InputError(f"{name} has pixels from {low:g} to {high:g}: scale them to 0..255 first")
    return _from_array(values.astype(np.uint8 if high <= 255 else np.uint16), name, max_pixels)


def _is_array(image: Any) -> bool:
    torch = sys.modules.get("torch")  # a caller who has a tensor has imported it
    return isinstance(image, np.ndarray) or (torch is not None and isinstance(image, torch.Tensor))


def _as_array(image: Any) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    tensor = image.detach().cpu()
    return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


def _from_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    channels = (1, 3, 4)
    # No side of an image is that short (`MIN_SIDE`), so where the channels are is never in doubt.
    if array.ndim == 3 and array.shape[0] in channels and array.shape[2] not in channels:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in channels):
        raise InputError(
            f"{name} is an array of shape {array.shape}: it must be height x width, or height x width x 3 in RGB order"
        )
    if array.size == 0:
        raise InputError(f"{name} is an array of shape {array.shape}: it has no pixels")
    if array.shape[0] * array.shape[1] > max_pixels:
        raise InputError(_too_large(name, array.shape[1], array.shape[0], max_pixels))
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"{name} holds values that are not finite numbers: replace the NaN or infinity first")
        if low < -FLOAT_TOLERANCE or high > 1 + FLOAT_TOLERANCE:
            raise InputError(f"{name} holds floats from {low:g} to {high:g}: give floats in 0..1, or uint8 in 0..255")
        array = np.rint(array.astype(np.float32).clip(0, 1) * 255).astype(np.uint8)
    elif (kind, size) == ("u", 2):  # in either byte order
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif (kind, size) != ("u", 1):
        raise InputError(f"{name} is an array of {array.dtype}: give uint8 in 0..255, uint16, or floats in 0..1")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name, max_pixels)


def _too_large(name: str, width: int, height: int, max_pixels: int) -> str:
    limit = f"{max_pixels / 1e6:g} million" if max_pixels >= 100_000 else f"{max_pixels:,}"
    return (
        f"{name} is {width} x {height} pixels: the limit is {limit} pixels, make it smaller first or raise max_pixels"
    )


__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MIN_SIDE",
    "SUFFIXES",
    "LoadedImage",
    "OneImage",
    "as_images",
    "find_images",
    "is_folder",
    "left_out_sentence",
    "load_image",
    "name_of",
    "shown",
]
