"""Detection of several images together: the results, errors and order of one image at a time."""

import threading

import numpy as np
import pytest
from recognizer_helpers import CountingDetector, assert_same

from rmn_hub import ExpressionRecognizer, Face, preparing
from rmn_hub.errors import InputError


class WatchedDetector(CountingDetector):
    """An own detector that notes how many images it gets at a time, and can have a bad day."""

    def __init__(self, at_most=99, fails_on=None):
        super().__init__((10.0, 10.0, 60.0, 70.0))
        self.sizes = []
        self.at_most = at_most
        self.fails_on = fails_on

    def detect(self, images):
        self.sizes.append(len(images))
        if len(images) > self.at_most or self.fails_on in [image.size for image in images]:
            raise ValueError("not these")
        return super().detect(images)


@pytest.fixture
def watched(tiny_checkpoint):
    def make(detector, **settings):
        return ExpressionRecognizer.from_pretrained(tiny_checkpoint, device="cpu", detector=detector, **settings)

    return make


@pytest.fixture(scope="module")
def mixed(astronaut, collage, faceless):
    """Images of several sizes, with no, one and eight faces, more than go to the detector together."""
    sizes = [(512, 512), (300, 300), (700, 560), (400, 260)]
    images = [image.resize(size) for size in sizes for image in (astronaut, collage, faceless)]
    return [*images, collage]


@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_together_or_alone_makes_no_difference(bundled, mixed, batch_size):
    recognizer = ExpressionRecognizer.from_pretrained(device="cpu", batch_size=batch_size)
    assert len(mixed) > preparing.IMAGES_AT_ONCE
    for together, image in zip(recognizer(mixed), mixed, strict=True):
        alone = bundled(image)
        assert_same(together, alone)
        assert (together.width, together.height, together.message) == (alone.width, alone.height, alone.message)
        for face, expected in zip(together, alone):
            np.testing.assert_allclose(face.box, expected.box, atol=1e-2)
            np.testing.assert_allclose(face.landmarks, expected.landmarks, atol=1e-2)
            assert face.score == pytest.approx(expected.score, abs=1e-4)


def test_the_detector_gets_several_images_at_a_time(watched, astronaut):
    for batch_size, sizes in ((1, [1] * 11), (3, [3, 3, 3, 2]), (32, [8, 3])):
        detector = WatchedDetector()
        assert len(watched(detector, batch_size=batch_size)([astronaut] * 11)) == 11
        assert detector.sizes == sizes


def test_a_detector_that_takes_one_image_at_a_time(watched, astronaut):
    one = WatchedDetector(at_most=1)
    results = watched(one)([astronaut] * 3)
    assert [len(result) for result in results] == [1] * 3
    assert one.sizes == [3, 1, 1, 1]

    class First(CountingDetector):
        def detect(self, images):
            return super().detect(images[:1])

    assert [len(result) for result in watched(First((10.0, 10.0, 60.0, 70.0)))([astronaut] * 3)] == [1] * 3


def test_large_images_go_to_the_detector_early(watched, astronaut, monkeypatch):
    monkeypatch.setattr(preparing, "BYTES_AT_ONCE", 2 * 3 * 512 * 512)
    detector = WatchedDetector()
    assert len(watched(detector)([astronaut] * 5)) == 5
    assert detector.sizes == [2, 2, 1]


def test_no_more_is_read_ahead_than_is_promised(watched, astronaut):
    read = []
    stream = watched(WatchedDetector(), batch_size=4).stream(read.append(1) or astronaut for _ in range(100))
    for number in range(1, 21):
        next(stream)
        assert len(read) < number + 8
    stream.close()


def test_errors_keep_their_places(watched, astronaut):
    images = [astronaut, b"", astronaut, astronaut, b"?", astronaut]
    recognizer = watched(WatchedDetector())
    assert [result.failed for result in recognizer(images, on_error="keep")] == [False, True, False, False, True, False]
    errors = []
    results = recognizer(images, on_error=errors.append)
    assert [result.source for result in results] == ["image 1", "image 3", "image 4", "image 6"]
    assert ["image 2" in str(errors[0]), "image 5" in str(errors[1])] == [True, True]


def broken(astronaut):
    yield from [astronaut, astronaut]
    raise ZeroDivisionError


@pytest.mark.parametrize("what", ["an image", "the caller's generator", "the detector", "a box of the detector"])
def test_what_is_before_an_error_is_delivered(watched, astronaut, what):
    small, error = astronaut.resize((100, 80)), InputError
    detector, images = WatchedDetector(), [astronaut, astronaut, small, astronaut]
    if what == "an image":
        images[2] = b""
    elif what == "the detector":
        detector.fails_on = small.size
    elif what == "a box of the detector":
        detector.detect = lambda images: [
            [Face((300.0, 300.0, 400.0, 400.0))] if image.size == small.size else [] for image in images
        ]
    else:
        images, error = broken(astronaut), ZeroDivisionError
    stream = watched(detector).stream(images)
    assert [next(stream).source for _ in range(2)] == ["image 1", "image 2"]
    with pytest.raises(error, match=None if error is ZeroDivisionError else "image 3"):
        next(stream)


class ConcurrentDetector(WatchedDetector):
    """An own detector that threads may call, which finds nothing until `threads` of them do so at the same time."""

    def __init__(self, threads, **settings):
        super().__init__(**settings)
        self.threads = threads
        self.barrier = threading.Barrier(threads)
        self.callers = set()

    def detect(self, images):
        self.callers.add(threading.get_ident())
        if self.threads > 1:
            self.barrier.wait(timeout=60)
        return super().detect(images)


def test_a_detector_for_several_threads_gets_images_at_the_same_time(watched, astronaut):
    detector = ConcurrentDetector(3)
    images = [astronaut.resize((200 + number, 200)) for number in range(9)]
    results = watched(detector)(images)
    assert [result.width for result in results] == [image.width for image in images]
    assert len(detector.callers) == 3
    assert threading.get_ident() not in detector.callers
    assert detector.sizes == [1] * 9


def test_one_image_and_a_stream_without_batches_stay_in_order_in_this_process(watched, astronaut):
    detector = ConcurrentDetector(1)
    recognizer = watched(detector, batch_size=1)
    detector.threads = 2
    detector.barrier = threading.Barrier(1)
    assert len(recognizer(astronaut)) == 1
    asked = []

    def frames():
        for number in range(4):
            asked.append(number)
            yield astronaut

    for number, _ in enumerate(recognizer.stream(frames())):
        assert asked[-1] == number  # no frame is read before the result of the one before it was taken


def test_errors_of_threads_come_in_order(watched, astronaut, tmp_path):
    images = [astronaut, tmp_path / "missing.jpg", astronaut.resize((99, 99)), astronaut]
    detector = ConcurrentDetector(2)
    detector.barrier = threading.Barrier(1)
    kept = list(watched(detector).stream(images, on_error="keep"))
    assert [result.width for result in kept] == [512, 0, 99, 512]
    noted = []
    assert len(list(watched(detector).stream(images, on_error=noted.append))) == 3
    assert len(noted) == 1
    results = watched(detector).stream(images)
    assert next(results).width == 512
    with pytest.raises(InputError, match=r"missing\.jpg"):
        next(results)
    detector.fails_on = (99, 99)
    results = watched(detector).stream([astronaut, images[2], astronaut])
    assert next(results).width == 512
    with pytest.raises(InputError, match="detector failed"):
        next(results)


def test_a_stream_that_is_left_ends_its_threads(watched, astronaut):
    detector = ConcurrentDetector(2)
    detector.barrier = threading.Barrier(1)
    results = watched(detector, batch_size=2).stream([astronaut] * 50)
    next(results)
    results.close()
    alive = {thread.ident for thread in threading.enumerate()}
    assert not detector.callers & alive
