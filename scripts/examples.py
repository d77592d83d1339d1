"""
Make the images and the film in space/examples from scikit-image's and matplotlib's images, whose licences are free.

The drawn heads of the collage are those of `scripts/heads.py`, which come first.

uv run python scripts/examples.py
"""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import skimage
from matplotlib import cbook
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parents[1] / "space" / "examples"
TILE = 240
# The heads in the two portraits: left, top, right, bottom.
ASTRONAUT_HEAD = (148, 0, 348, 200)
OFFICER_HEAD = (110, 30, 390, 310)
FILM_SIZE = (640, 360)
FILM_RATE = 25
SCENE_SECONDS = 3


def main() -> None:
    """Write the four images and the film."""
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
    write_film(FOLDER / "film.mp4", scenes(astronaut, officer))


def collage(first: Image.Image, second: Image.Image) -> Image.Image:
    """Lay eight faces in two rows: the portraits, the five drawn heads, and the first portrait in grey."""

    def drawn(name: str) -> Image.Image:
        with Image.open(FOLDER / f"{name}.jpg") as image:
            return image.crop((0.1 * image.width, 0.05 * image.height, 0.9 * image.width, 0.85 * image.height))

    heads = [first, drawn("angry"), drawn("surprise"), second, drawn("sad"), drawn("fear"), drawn("disgust")]
    heads.append(ImageOps.grayscale(ImageOps.mirror(first)).convert("RGB"))
    sheet = Image.new("RGB", (4 * TILE, 2 * TILE))
    for number, head in enumerate(heads):
        tile = head.resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet.paste(tile, (number % 4 * TILE, number // 4 * TILE))
    return sheet


def scenes(first: Image.Image, second: Image.Image) -> Iterator[Image.Image]:
    """Yield three scenes: both people side by side and swaying, a slow zoom on the first, a turn of the second."""
    count = SCENE_SECONDS * FILM_RATE
    for number in range(count):
        time = number / count
        frame = Image.new("RGB", FILM_SIZE, (206, 212, 218))
        sway = math.sin(2 * math.pi * time)
        frame.paste(part_of(first, (228, 128), 250 - 30 * time, (300, 300)), (round(10 + 12 * sway), 30))
        frame.paste(part_of(second, (250, 180), 330, (300, 300)), (round(330 - 12 * sway), round(30 + 10 * sway)))
        yield frame
    for number in range(count):
        yield part_of(
            first, (250 - 20 * number / count, 145 - 25 * number / count), 288 - 80 * number / count, FILM_SIZE
        )
    for number in range(count):
        turned = second.rotate(
            16 * math.sin(2 * math.pi * number / count),
            Image.Resampling.BICUBIC,
            center=(250, 200),
            fillcolor=(206, 212, 218),
        )
        yield part_of(turned, (255, 215), 330, FILM_SIZE)


def part_of(image: Image.Image, center: tuple[float, float], height: float, size: tuple[int, int]) -> Image.Image:
    """Return the part of an image around a point that is `height` pixels high, at `size`."""
    width = height * size[0] / size[1]
    box = (center[0] - width / 2, center[1] - height / 2, center[0] + width / 2, center[1] + height / 2)
    scale = size[1] / height
    values = (1 / scale, 0, box[0], 0, 1 / scale, box[1])
    return image.transform(size, Image.Transform.AFFINE, values, Image.Resampling.BICUBIC, fillcolor=(206, 212, 218))


def write_film(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write frames as H.264, which every browser plays."""
    with av.open(str(path), "w", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FILM_RATE, options={"crf": "26", "preset": "slow"})
        stream.width, stream.height = FILM_SIZE
        stream.pix_fmt = "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
