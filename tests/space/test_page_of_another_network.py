"""The page of a network without masks, or with expressions of its own: it speaks of that network."""

import re

import pytest
from evaluation_helpers import save_checkpoint
from PIL import Image

from rmn_hub import EXPRESSIONS, FaceExpression
from rmn_hub.results import ImageResult

pytest.importorskip("gradio", reason="the page is optional: install rmn-hub[demo]")

from rmn_space import page, render, safety
from rmn_space.service import Service


def face_of(probabilities):
    best = max(probabilities, key=probabilities.get)
    box = (10.0, 20.0, 30.0, 40.0)
    return FaceExpression(box=box, expression=best, probability=probabilities[best], probabilities=probabilities)


def test_a_network_without_masks_shows_none_and_long_names_have_their_room():
    names = ("content", "disappointed", "overwhelmingly-surprised")
    face = face_of(dict.fromkeys(names, 1 / 3))
    html = render.result(ImageResult("a.jpg", 100, 100, (face,)), Image.new("RGB", (100, 100)))
    assert "mask" not in html
    assert "--names:9.0em" in html
    assert "--names" not in render.chart(face_of(dict.fromkeys(EXPRESSIONS, 1 / 7)))


def test_the_page_of_another_network_speaks_of_that_network(tmp_path):
    labels = dict(enumerate(("glad", "gloomy", "calm")))
    other = Service(str(save_checkpoint(tmp_path / "checkpoint", mask_depths=None, id2label=labels)))
    built = page.build(other, safety.RateLimit(), mcp=True)
    other.close()
    texts = [re.sub(r"data:[^\"')]*", "", str(getattr(block, "value", ""))) for block in built.blocks.values()]
    assert any("three expressions" in text for text in texts)
    assert not any("mask" in text.lower() for text in texts)
    (attention,) = [block for block in built.blocks.values() if block.elem_id == "live-attention"]
    assert not attention.visible
    (tool,) = [fn for fn in built.fns.values() if fn.api_name == "tool"]
    assert "glad, gloomy or calm" in tool.api_description
