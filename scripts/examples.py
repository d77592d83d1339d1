"""
Make the images in space/examples from scikit-image's and matplotlib's, whose licences are free.

uv run python scripts/examples.py
"""

from pathlib import Path

import skimage
from matplotlib import cbook
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

FOLDER = Path(__file__).resolve().parents[1] / "space" / "examples"
TILE = 240
# The heads in the two portraits: left, top, right, bottom.
ASTRONAUT_HEAD = (148, 0, 348, 200)
OFFICER_HEAD = (110, 30, 390, 310)


def main() -> None:
    """Write the four images."""
    astronaut = Image.fromarray(skimage.data.astronaut())
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        officer = Image.open(file).convert("RGB")
    coffee = Image.fromarray(skimage.data.coffee())
    images = {
        "astronaut.jpg": astronaut,
        "officer.jpg": officer,
        "collage.jpg": collage(astronaut.crop(ASTRONAUT_HEAD), officer.crop(OFFICER_HEAD)),
        "coffee.jpg": coffee,
    }
    for name, image in images.items():
        image.save(FOLDER / name, quality=92)


def collage(first: Image.Image, second: Image.Image) -> Image.Image:
    """Eight faces in two rows: both portraits mirrored, grey, dark, turned, small and blurred."""
    first, second = (head.resize((TILE, TILE), Image.Resampling.LANCZOS) for head in (first, second))
    small = Image.new("RGB", (TILE, TILE), (206, 212, 218))
    small.paste(second.resize((TILE // 2, TILE // 2), Image.Resampling.LANCZOS), (TILE // 4, TILE // 4))
    tiles = [
        first,
        ImageOps.grayscale(second).convert("RGB"),
        ImageOps.mirror(ImageEnhance.Brightness(first).enhance(0.55)),
        second.rotate(12, Image.Resampling.BICUBIC, fillcolor=(206, 212, 218)),
        small,
        ImageOps.grayscale(ImageOps.mirror(first)).convert("RGB"),
        ImageOps.mirror(second),
        first.filter(ImageFilter.GaussianBlur(2.5)).rotate(-10, Image.Resampling.BICUBIC, fillcolor=(206, 212, 218)),
    ]
    sheet = Image.new("RGB", (4 * TILE, 2 * TILE))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % 4 * TILE, number // 4 * TILE))
    return sheet


if __name__ == "__main__":
    main()
