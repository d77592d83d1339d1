"""A Space whose GPU is lent by the call: it starts without one, and a photo whose GPU is refused runs on the CPU."""

import sys
from types import SimpleNamespace

import gradio as gr
import pytest
from rmn_space import page, photo, safety
from rmn_space import service as services


@pytest.fixture(scope="module")
def lender():
    """A made package `spaces`, which grants or refuses, and counts what it is asked."""
    lender = SimpleNamespace(granting=True, asked=0)

    def gpu(duration):
        def lend(function):
            def with_gpu(*arguments):
                lender.asked += 1
                if not lender.granting:
                    raise gr.Error("No GPU was available after 60s. Retry later")
                return function(*arguments)

            return with_gpu

        return lend

    lender.GPU = gpu
    return lender


@pytest.fixture(scope="module")
def service(lender):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "spaces", lender)
        patch.setenv("SPACES_ZERO_GPU", "true")
        patch.setattr(services, "LENT_DEVICE", "cpu")  # a second set of networks, as there is on a ZeroGPU Space
        service = services.Service()
    yield service
    service.close()


@pytest.fixture(autouse=True)
def afresh(lender):
    lender.granting, lender.asked = True, 0


def test_the_page_is_built_without_asking_for_a_gpu(service, lender):
    lender.granting = False
    assert isinstance(page.build(service, safety.RateLimit()), gr.Blocks)
    assert lender.asked == 0


@pytest.mark.parametrize("min_face", [None, 60])
def test_a_photo_runs_on_the_lent_gpu_or_on_the_cpu_with_a_sentence(service, lender, min_face):
    given, _ = photo.open_example("astronaut.jpg")
    granted, _ = service.recognize(given, min_face=min_face)
    assert lender.asked == 1
    lender.granting = False
    refused, _ = service.recognize(given, min_face=min_face)
    assert lender.asked == 2
    assert services.NO_GPU not in (granted.message or "")
    assert services.NO_GPU in refused.message
    assert [face.expression for face in refused] == [face.expression for face in granted]
    assert services.NO_GPU in photo.html_of(service, given, photo.USUAL_FACE, 0.0)
