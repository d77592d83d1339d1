"""
What a photo costs, and that memory stays flat. Not collected with the tests; run it on a quiet machine:

    pytest tests/benchmarks/benchmark_recognizer.py -s
"""

import gc
import statistics
import time

import psutil
import pytest
from facenet_pytorch import MTCNN
from PIL import Image
from skimage import data

from rmn_hub import ExpressionRecognizer

IMAGES = 2000
ROUNDS = 15
# What a photo may cost against MTCNN alone, and how much the process may grow over the images, in MiB.
MOST_COST = 1.3
MOST_GROWTH = 30


@pytest.fixture(scope="module")
def photo():
    """1280 x 960 pixels with one face of 170 x 210 in front of a table with a cup of coffee."""
    image = Image.fromarray(data.coffee()).resize((1280, 960))
    image.paste(Image.fromarray(data.astronaut()).resize((960, 960)), (160, 0))
    return image


@pytest.fixture(scope="module")
def recognizer():
    return ExpressionRecognizer.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def mtcnn():
    """facenet-pytorch's MTCNN with its default settings."""
    return MTCNN()


@pytest.mark.benchmark(group="one photo of 1280 x 960 pixels with one face")
def test_mtcnn_alone_with_default_settings(benchmark, mtcnn, photo):
    benchmark.pedantic(lambda: mtcnn.detect(photo, landmarks=True), rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="one photo of 1280 x 960 pixels with one face")
def test_recognizer_model_included(benchmark, recognizer, photo):
    result = benchmark.pedantic(lambda: recognizer(photo), rounds=ROUNDS, warmup_rounds=2)
    assert len(result) == 1


def test_cost_against_mtcnn_alone(recognizer, mtcnn, photo, capsys):
    """Both in turns, so that what else the machine does slows both."""

    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    calls = {
        "MTCNN alone, default settings": lambda: mtcnn.detect(photo, landmarks=True),
        "recognizer": lambda: recognizer(photo),
        "recognizer, attention": lambda: recognizer(photo, attention=True),
        "its detector": lambda: recognizer.detector.detect([photo]),
    }
    times = {name: [] for name in calls}
    for turn in range(ROUNDS + 2):
        for name, call in calls.items():
            taken = seconds(call)
            if turn >= 2:
                times[name].append(taken)
    reference = statistics.median(times["MTCNN alone, default settings"])
    with capsys.disabled():
        for name, taken in times.items():
            median = statistics.median(taken)
            print(f"\n{name}: {1000 * median:.0f} ms, {median / reference:.2f} times MTCNN alone", end="")
        print(f"\n(the recognizer may cost {MOST_COST} times MTCNN alone)")
    assert statistics.median(times["recognizer"]) <= MOST_COST * reference


def test_memory_over_many_images(recognizer, photo, tmp_path, capsys):
    """Resident memory while `IMAGES` files of ten sizes go through a stream, some of them without a face."""
    files = []
    for number in range(10):
        image = photo.resize((400 + 50 * number, 300 + 37 * number))
        if number % 5 == 4:
            image = image.crop((0, 0, 130, image.height))
        files.append(tmp_path / f"{number}.jpg")
        image.save(files[-1])
    process = psutil.Process()
    stream = recognizer.stream(files[number % len(files)] for number in range(IMAGES))
    memory, faces = [], 0
    for number, result in enumerate(stream, start=1):
        faces += len(result)
        if number % 100 == 0:
            gc.collect()
            memory.append(process.memory_info().rss / 2**20)
    assert faces == IMAGES * 8 // 10
    assert number == IMAGES
    with capsys.disabled():
        print("\nresident MiB after each 100 images:", *(f"{value:.0f}" for value in memory))
        print(f"from image 200 to {IMAGES}: {memory[-1] - memory[1]:+.1f} MiB")
    assert memory[-1] - memory[1] <= MOST_GROWTH
