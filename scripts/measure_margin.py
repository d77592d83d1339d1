"""
Measure how FER2013 was cropped against MTCNN's box, which is where `rmn_hub.detection.detector.MARGIN` comes from.

    uv run python scripts/measure_margin.py FER2013 [--faces 600] [--wild FACES]

FER2013's images are cut so tightly that the box may leave them, so each is enlarged and gets a border of its own edge
before MTCNN looks at it. As a check that does without the unseen surroundings, `--wild` (photos of faces in a folder
per expression, or any other form of labelled faces) lays FER2013's median landmarks over the landmarks of each photo
and reports how large and where a FER2013 image would be there.

All numbers are in parts of the longer side of MTCNN's box.
"""

import argparse

import numpy as np
from PIL import Image

from rmn_hub.data.faces import FER_SIZE, FaceImages
from rmn_hub.data.sources import load_face_images
from rmn_hub.detection.mtcnn import MTCNNDetector
from rmn_hub.results import Face

ENLARGED = 4
BORDER = FER_SIZE // 2
CERTAIN = 0.98


def main() -> None:
    """Print the quartiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fer2013", help="FER2013 in any form")
    parser.add_argument("--split", default="public_test")
    parser.add_argument("--faces", type=int, default=600, help="how many of its images")
    parser.add_argument("--wild", help="photos of faces with room around them")
    arguments = parser.parse_args()

    images = sample(load_face_images(arguments.fer2013, arguments.split), arguments.faces)
    detector = MTCNNDetector(min_face=ENLARGED * FER_SIZE // 2, threshold=CERTAIN)
    found = [face for face in (find_in_crop(detector, image) for image in images) if face]
    boxes = np.array([face.box for face in found])
    sides = longer_sides(boxes)
    print(f"FER2013 {arguments.split}: MTCNN finds {len(found)} of {len(images)} faces")
    report("side of the image", FER_SIZE / sides)
    report("its centre, to the right of the box's", (FER_SIZE / 2 - boxes[:, ::2].mean(1)) / sides)
    report("its centre, below the box's", (FER_SIZE / 2 - boxes[:, 1::2].mean(1)) / sides)
    if not arguments.wild:
        return

    landmarks = np.median([face.landmarks for face in found], axis=0)
    photos = sample(load_face_images(arguments.wild, "all"), arguments.faces)
    detector = MTCNNDetector(min_face=60, threshold=CERTAIN, max_faces=1)
    faces = [face for photo in photos for face in detector.detect([photo])[0]]
    boxes = np.array([face.box for face in faces])
    sides = longer_sides(boxes)
    fits = [fit(landmarks, np.array(face.landmarks)) for face in faces]
    scales, centres = np.array([scale for scale, _ in fits]), np.array([centre for _, centre in fits])
    print(f"\nFER2013's landmarks over those of {len(faces)} faces of {len(photos)} photos")
    report("side of the image", FER_SIZE * scales / sides)
    report("its centre, to the right of the box's", (centres[:, 0] - boxes[:, ::2].mean(1)) / sides)
    report("its centre, below the box's", (centres[:, 1] - boxes[:, 1::2].mean(1)) / sides)


def sample(images: FaceImages, count: int) -> FaceImages:
    """Return at most `count` images, always the same ones."""
    return images.take(np.random.default_rng(0).permutation(len(images))[:count])


def find_in_crop(detector: MTCNNDetector, image: Image.Image) -> Face | None:
    """Return the face of a FER2013 image with the highest score, in its own pixels."""
    pixels = np.pad(np.asarray(image.convert("L").resize((FER_SIZE, FER_SIZE))), BORDER, mode="edge")
    size = ENLARGED * (FER_SIZE + 2 * BORDER)
    large = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
    faces = detector.detect([large])[0]
    if not faces:
        return None
    face = max(faces, key=lambda face: face.score)
    return Face(
        tuple(value / ENLARGED - BORDER for value in face.box),
        tuple((x / ENLARGED - BORDER, y / ENLARGED - BORDER) for x, y in face.landmarks),
        face.score,
    )


def longer_sides(boxes: np.ndarray) -> np.ndarray:
    """Return the longer sides `(N,)` of boxes `(N, 4)`."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def fit(landmarks: np.ndarray, onto: np.ndarray) -> tuple[float, np.ndarray]:
    """
    Return the similarity (least squares over the five points) that lays `landmarks` onto others: its scale, and where
    it puts the middle of a FER2013 image (heads are taken as upright).
    """
    middle, middle_onto = landmarks.mean(0), onto.mean(0)
    here, there = (np.array([1, 1j]) @ (points - mean).T for points, mean in ((landmarks, middle), (onto, middle_onto)))
    scale = abs(np.vdot(here, there)) / np.vdot(here, here).real
    return float(scale), middle_onto + scale * (FER_SIZE / 2 - middle)


def report(name: str, values: np.ndarray) -> None:
    """Print one line: median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    print(f"  {name:<40} median {median:+.3f}   quartiles {low:+.3f} {high:+.3f}")


if __name__ == "__main__":
    main()
