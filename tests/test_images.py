"""Images in: every form of an image gives the same pixels, and anything else gives one sentence."""

import base64
import io
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas
import pillow_heif
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin

from rmn_hub import RMNImageProcessor
from rmn_hub.errors import InputError
from rmn_hub.images import MAX_PIXELS, as_images, find_images, left_out_sentence, load_image, shown

EXIF_ORIENTATION = 0x0112
# What undoes each EXIF orientation's turn, so that a viewer that applies it shows the original.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def photo(astronaut):
    """A part of the astronaut that is neither square nor symmetric, 160 x 120."""
    return astronaut.crop((150, 50, 310, 170))


def encode(image, form, **settings):
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def pixels(image, name="x"):
    loaded = load_image(image, name)
    assert loaded.image.mode == "RGB"
    return np.asarray(loaded.image).astype(int)


def test_every_form_of_a_picture_has_the_same_pixels(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    expected = np.asarray(photo)
    forms = [
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        memoryview(path.read_bytes()),
        photo,
        Image.open(path),
        expected,
        np.asfortranarray(expected),
        (expected / 255).astype(np.float64),
        (expected / 255).astype(np.float32),
        expected.astype(np.uint16) * 257,
        np.dstack([expected, np.full(expected.shape[:2], 255, np.uint8)]),
    ]
    for form in forms:
        np.testing.assert_array_equal(pixels(form), expected)
    assert load_image(path).source == str(path)
    assert load_image(photo, "image 7").source == "image 7"


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(photo, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    turned = photo.transpose(TURNS[orientation])
    np.testing.assert_array_equal(pixels(encode(turned, "PNG", exif=exif)), np.asarray(photo))
    opened = Image.open(io.BytesIO(encode(turned, "PNG", exif=exif)))
    np.testing.assert_array_equal(pixels(opened), np.asarray(photo))


def test_grey_in_8_and_16_bits(photo):
    grey = np.asarray(photo.convert("L"))
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    wide = grey.astype(np.uint16) * 257
    for form in (
        photo.convert("L"),
        grey,
        grey[:, :, None],
        wide,
        Image.fromarray(wide),
        encode(Image.fromarray(wide), "PNG"),
        encode(Image.fromarray(wide), "TIFF"),
        Image.fromarray(wide.astype(np.int32)),
        Image.fromarray(grey.astype(np.int32)),
        Image.fromarray(grey.astype(np.float32)),
        Image.fromarray((grey / 255).astype(np.float32)),
    ):
        np.testing.assert_array_equal(pixels(form), expected)


def test_16_bit_grey_is_scaled_and_not_cut_off():
    ramp = np.linspace(0, 65535, 100 * 20).reshape(20, 100).astype(np.uint16)
    np.testing.assert_allclose(pixels(encode(Image.fromarray(ramp), "PNG"))[:, :, 0], ramp / 257, atol=0.51)


def test_cmyk(photo):
    values = pixels(encode(photo.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(values - np.asarray(photo)).mean() < 4


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "PA"])
def test_transparency_lies_on_white(photo, mode):
    left = Image.new("L", photo.size, 255)
    left.paste(0, (0, 0, 80, 120))
    if mode == "P":
        # A palette with one transparent colour, as GIF and PNG have it.
        image = photo.quantize(256)
        image.paste(200, (0, 0, 80, 120))
        image = Image.open(io.BytesIO(encode(image, "PNG", transparency=200)))
    else:
        image = photo.quantize(256) if mode == "PA" else photo
        image = image.convert(mode)
        image.putalpha(left)
    assert image.mode == mode
    values = pixels(image)
    assert (values[:, :80] == 255).all()
    assert values[:, 80:].std() > 20


def test_of_an_animation_the_first_frame_is_read_and_said(photo):
    frames = [photo.convert("P"), Image.new("P", photo.size), Image.new("P", photo.size, 3)]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode(photo, form, save_all=True, append_images=[frame.convert("RGB") for frame in frames[1:]])
        loaded = load_image(data, "party")
        assert loaded.message == "party has several frames: only the first one was read."
        assert np.abs(np.asarray(loaded.image).astype(int) - np.asarray(photo)).mean() < 8
    assert load_image(encode(photo, "GIF")).message is None
    # A phone's JPEG with a second picture in it is a photo, not an animation.
    assert load_image(encode(photo, "MPO", save_all=True, append_images=[photo])).message is None


def test_a_folder_is_searched_in_order(tmp_path, photo):
    for name in ("b.PNG", "a.jpg", "sub/deep/c.webp", ".hidden.png", ".cache/d.png", "notes.txt", "out/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_images(tmp_path, skip=[tmp_path / "out"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jpg", "b.PNG", "sub/deep/c.webp"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert find_images(tmp_path / "missing.png") == [tmp_path / "missing.png"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="folder without images"):
        find_images(tmp_path / "empty")


def test_a_folder_in_it_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    for name in ("a.png", "closed/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    errors = []
    assert find_images(tmp_path, on_error=errors.append) == [tmp_path / "a.png"]
    assert [str(error) for error in errors] == [f"{tmp_path / 'closed'} cannot be read: Permission denied"]
    for folder in (tmp_path, tmp_path / "closed"):
        with pytest.raises(InputError, match="closed cannot be read"):
            find_images(folder)


def test_names_that_nothing_can_have(tmp_path):
    endless = tmp_path / "endless.png"
    endless.symlink_to(endless)
    for path in (endless, tmp_path / ("long" * 2000)):
        assert find_images(path) == [path]
        with pytest.raises(InputError, match=r"does not exist|cannot be read|too long"):
            load_image(path)


def test_files_are_closed_when_they_are_read_or_refused(tmp_path, photo):
    photo.save(tmp_path / "animated.gif", save_all=True, append_images=[Image.new("RGB", photo.size)])
    photo.save(tmp_path / "photo.mpo", save_all=True, append_images=[photo])
    photo.resize((5, 5)).save(tmp_path / "small.png")
    (tmp_path / "truncated.png").write_bytes(encode(photo, "PNG")[:20000])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("animated.gif", "photo.mpo"):
            assert load_image(tmp_path / name).image.resize((40, 30)).getbbox()
        for name in ("small.png", "truncated.png"):
            with pytest.raises(InputError):
                load_image(tmp_path / name)
    assert not [warning.message for warning in caught if warning.category is ResourceWarning]


def test_open_files_data_urls_and_tensors(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    expected = np.asarray(photo)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    written = io.BytesIO()
    for file in (spooled, written):
        photo.save(file, "PNG")  # and stands at its end
    text = base64.b64encode(path.read_bytes()).decode()
    tensor = torch.from_numpy(expected.copy())
    forms = [
        io.BytesIO(path.read_bytes()),
        spooled,
        written,
        f"data:image/png;base64,{text}",
        f"DATA:;base64,{text[:100]}%0A{text[100:]}",
        "data:image/png," + quote(path.read_bytes()),
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).double() / 255,
        (tensor / 255).requires_grad_(),
        np.moveaxis(expected, 2, 0),
    ]
    for form in forms:
        np.testing.assert_array_equal(pixels(form), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pixels(file), expected)
        assert load_image(file).source == str(path)
    half = pixels((tensor / 255).bfloat16())
    assert np.abs(half - expected).max() <= 1
    grey = tensor[:, :, :1].permute(2, 0, 1)
    np.testing.assert_array_equal(pixels(grey)[:, :, 0], expected[:, :, 0])


def test_a_pipe_is_read(photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(photo, "PNG"))
    code = "import sys; from rmn_hub.images import load_image; print(load_image(sys.argv[1]).image.size)"
    command = '"$0" -c "$1" <(cat "$2")'
    command = ["bash", "-c", command, sys.executable, code, tmp_path / "photo.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(160, 120)\n", "")


# One rule for arrays: what the recognizer takes, the image processor takes, with the same pixels.
ARRAYS = {
    "slightly above 1": np.linspace(0, 1.00001, 2500, dtype=np.float32).reshape(50, 50),
    "slightly below 0": np.linspace(-1e-5, 1, 2500).reshape(50, 50),
    "clearly above 1": np.linspace(0, 1.001, 2500).reshape(50, 50),
    "clearly below 0": np.linspace(-0.001, 1, 2500).reshape(50, 50),
    "half": np.linspace(0, 1, 2500).reshape(50, 50).astype(np.float16),
    "NaN": np.full((50, 50), np.nan),
    "infinite": np.full((50, 50), np.inf),
    "uint16": np.arange(2500, dtype=np.uint16).reshape(50, 50) * 26,
    "int64": np.zeros((50, 50), np.int64),
    "bool": np.zeros((50, 50), bool),
    "colour": np.random.default_rng(0).random((50, 60, 3)),
    "channels first": np.random.default_rng(0).integers(0, 256, (3, 50, 60), dtype=np.uint8),
    "with alpha": np.random.default_rng(0).integers(0, 256, (50, 60, 4), dtype=np.uint8),
    "one channel": np.random.default_rng(0).integers(0, 256, (50, 60, 1), dtype=np.uint8),
    "two channels": np.zeros((50, 60, 2), np.uint8),
    "PIL floats in 0..1": Image.fromarray(np.linspace(0, 1.00001, 2500, dtype=np.float32).reshape(50, 50)),
    "PIL floats in 0..255": Image.fromarray(np.linspace(0, 255, 2500, dtype=np.float32).reshape(50, 50)),
    "PIL 32 bits": Image.fromarray(np.arange(2500, dtype=np.int32).reshape(50, 50) * 26),
    "PIL negative": Image.fromarray(np.arange(2500, dtype=np.int32).reshape(50, 50) - 5),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_the_image_processor_has_the_same_rule(case):
    image = ARRAYS[case]
    processor = RMNImageProcessor(do_resize=False, do_grayscale=False)
    try:
        expected = processor(image, return_tensors="np")["pixel_values"][0]
    except ValueError:
        with pytest.raises(InputError):
            load_image(image)
        return
    np.testing.assert_allclose(pixels(image), 255 * np.moveaxis(expected, 0, 2), atol=1e-3)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", ">f4", ">f8"])
def test_byte_orders_make_no_difference(photo, dtype):
    grey = np.asarray(photo.convert("L"))
    scale = 257 if dtype.endswith("u2") else 1 / 255
    np.testing.assert_array_equal(pixels((grey.astype(np.float64) * scale).astype(dtype))[:, :, 0], grey)


def test_a_limit_can_be_raised_and_large_jpegs_are_halved(photo):
    large = photo.resize((640, 480))
    for form in ("PNG", "JPEG"):
        assert load_image(encode(large, form), max_pixels=640 * 480).image.size == (640, 480)
    with pytest.raises(InputError, match="max_pixels"):
        load_image(encode(large, "PNG"), max_pixels=640 * 480 - 1)
    loaded = load_image(encode(large, "JPEG"), "photo", max_pixels=640 * 480 // 4)
    assert (loaded.image.size, loaded.width, loaded.height) == ((320, 240), 640, 480)
    assert "photo" in loaded.message
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    turned = load_image(encode(large, "JPEG", exif=exif), max_pixels=640 * 480 // 4)
    assert (turned.image.size, turned.width, turned.height) == ((240, 320), 480, 640)
    with pytest.raises(InputError, match="max_pixels"):
        load_image(encode(large, "JPEG"), max_pixels=640 * 480 // 5)
    lazy = Image.open(io.BytesIO(encode(large, "JPEG")))
    halved = load_image(lazy, max_pixels=640 * 480 // 4)
    assert (halved.image.size, halved.width, halved.height) == ((320, 240), 640, 480)
    assert np.array_equal(halved.image, loaded.image)
    assert np.asarray(lazy).shape == (480, 640, 3)  # the caller's stays whole
    with pytest.raises(InputError, match="max_pixels"):
        load_image(lazy, max_pixels=640 * 480 // 4)  # and now it is decoded
    with io.BytesIO(encode(large, "JPEG")) as file:
        closed = Image.open(file)
    with pytest.raises(InputError, match="cannot be read"):
        load_image(closed, max_pixels=640 * 480 // 4)
    # Beyond Pillow's own limit for the whole process, too.
    wide = encode(Image.new("1", (20_000, 10_000)), "PNG")
    assert load_image(wide, max_pixels=200_000_000).width == 20_000


def test_a_jpeg_of_thousands_of_scans_is_refused_unread(photo, monkeypatch):
    data = encode(photo, "JPEG", progressive=True)
    assert load_image(data).width == 160
    scan = data.rindex(b"\xff\xda")
    many = data[:scan] + data[scan:-2] * 300 + data[-2:]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match="scans"):
        load_image(many)


def test_text_in_a_png_is_no_mystery(photo):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 5_000_000, zip=True)
    with pytest.raises(InputError, match="metadata"):
        load_image(encode(photo, "PNG", pnginfo=text))


def test_heic_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(InputError, match=r"rmn-hub\[heif\]"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def test_heic_with_the_extra(photo, tmp_path):
    path = tmp_path / "photo.heic"
    pillow_heif.from_pillow(photo).save(path, quality=95)
    assert np.abs(pixels(path) - np.asarray(photo)).mean() < 6
    with pytest.raises(InputError, match="damaged"):
        load_image(path.read_bytes()[:300])


def test_long_names_are_cut_and_stay_on_one_line(tmp_path):
    assert len(shown("x" * 100_000)) <= 80
    assert shown("a\nb\udcff") == "a\\nb\\udcff"
    base64_text = base64.b64encode(bytes(50_000)).decode()
    for image in ("x" * 100_000, base64_text, tmp_path / ("y" * 5000), "data:image/png;base64," + "*" * 100_000):
        with pytest.raises(InputError) as caught:
            load_image(image)
        assert len(str(caught.value)) < 300
    with pytest.raises(InputError, match="data: URL"):
        load_image(base64_text)


def test_one_image_or_several(photo):
    stack = np.zeros((4, 50, 50, 3), np.uint8)
    for one in ("a.png", Path("a.png"), b"", io.BytesIO(), photo, stack[0], torch.zeros(3, 50, 50), None, 7):
        assert as_images(one) is None
    for several in (["a.png"], ("a.png",), {"a.png"}, iter(["a.png"]), pandas.Series(["a.png"]), np.array(["a.png"])):
        assert list(as_images(several)) == ["a.png"]
    assert len(as_images(stack)) == len(as_images(torch.from_numpy(stack))) == 4
    for table in ({"a": "a.png"}, pandas.DataFrame({"path": ["a.png"]})):
        with pytest.raises(InputError, match=type(table).__name__):
            as_images(table)


def test_a_folder_scan_counts_what_it_leaves_out(tmp_path):
    names = ("a.jpg", "b.HEIC", "c.mp4", "d/e.MP4", "d/f", ".hidden.mp4", "._a.jpg", ".thumbs/x.jpg", "__MACOSX/y.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    counts = []
    found = find_images(tmp_path, on_left_out=counts.append)
    assert [path.name for path in found] == ["a.jpg", "b.HEIC"]
    assert counts == [{".mp4": 2, "": 1}]
    assert left_out_sentence(counts[0]) == "3 files are not images: 2 .mp4, 1 without a suffix"
    with pytest.raises(InputError, match=r"2 \.mp4|1 \.mp4"):
        find_images(tmp_path / "d")
    counts.clear()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.png").write_bytes(b"")
    find_images(tmp_path / "only", on_left_out=counts.append)
    assert counts == []


def bomb():
    """The header of a PNG of 30,000 x 30,000 pixels and a little of it: a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (30_000, 300)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[20:24] = (30_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # the header's checksum
    return bytes(data)


def closed_file():
    file = io.BytesIO(b"x")
    file.close()
    return file


BAD = {
    "empty bytes": (b"", "is empty"),
    "one byte": (b"?", "is not an image"),
    "an empty path": ("", "empty"),
    "a file of text": (io.StringIO("words"), "opened for reading bytes"),
    "a closed file": (closed_file(), "closed"),
    "a dictionary": ({"path": "a.png"}, "of type dict"),
    "a damaged data: URL": ("data:image/png;base64,@@@", "data: URL"),
    "a data: URL without data": ("data:image/png", "data: URL"),
    "text": (b"These are words.\n" * 20, "is not an image"),
    "PostScript, which would start a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
        "not an image",
    ),
    "one pixel": (Image.new("RGB", (1, 1)), "1 x 1 pixels"),
    "one pixel of an array": (np.zeros((1, 1, 3), np.uint8), "1 x 1 pixels"),
    "NaN": (np.full((50, 50), np.nan), "not finite"),
    "one NaN": (np.pad(np.full((1, 1), np.nan, np.float32), 30), "not finite"),
    "infinity": (np.full((50, 50, 3), np.inf, np.float32), "not finite"),
    "NaN in PIL": (Image.fromarray(np.full((50, 50), np.nan, np.float32)), "not finite"),
    "floats in 0..255": (np.full((50, 50, 3), 255.0), "floats from 255 to 255"),
    "negative floats": (np.full((50, 50, 3), -0.5), "floats in 0..1"),
    "int64": (np.zeros((50, 50, 3), np.int64), "int64"),
    "bool": (np.zeros((50, 50), bool), "bool"),
    "complex": (np.zeros((50, 50), complex), "complex128"),
    "text array": (np.full((50, 50), "a"), "<U1"),
    "five channels": (np.zeros((5, 50, 50), np.uint8), r"\(5, 50, 50\)"),
    "a batch": (np.zeros((2, 50, 50, 3), np.uint8), r"\(2, 50, 50, 3\)"),
    "a row": (np.zeros(50, np.uint8), r"\(50,\)"),
    "no pixels": (np.zeros((0, 50, 3), np.uint8), "no pixels"),
    "a number": (7, "image 3 of type int"),
    "nothing": (None, "image 3 of type NoneType"),
    "a null byte": ("a\0b", "does not exist"),
    "an address": ("https://example.com/photo.jpg", "is an address"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_one_sentence(case):
    image, words = BAD[case]
    with pytest.raises(InputError, match=words) as caught:
        load_image(image, "image 3")
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_sentence_with_their_name(tmp_path, photo):
    whole = encode(photo, "PNG")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "head.png").write_bytes(whole[:20])
    for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encode(photo, form)
        (tmp_path / f"truncated.{form.lower()}").write_bytes(data[: len(data) // 2])
    os.mkfifo(tmp_path / "pipe.png")
    expected = {
        "missing.png": "does not exist",
        "empty.png": "is empty",
        "folder.png": "is a folder",
        "text.jpg": "is not an image",
        "head.png": "is not an image|is truncated",
        "pipe.png": "is empty",
        **{path.name: "is truncated or damaged|is not an image" for path in tmp_path.glob("truncated.*")},
    }
    for name, words in expected.items():
        with pytest.raises(InputError, match=words) as caught:
            load_image(tmp_path / name)
        assert str(caught.value).startswith(shown(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    data = bomb()
    assert len(data) < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=f"limit is {MAX_PIXELS // 1_000_000} million pixels"):
        load_image(data)


def test_pictures_above_the_limit_are_refused_by_their_size():
    wide = np.broadcast_to(np.uint8(0), (1000, MAX_PIXELS // 1000 + 1))
    with pytest.raises(InputError, match="80001 x 1000 pixels"):
        load_image(wide)
    with pytest.raises(InputError, match="limit"):
        load_image(encode(Image.new("1", (12_000, 7_000)), "PNG"))
