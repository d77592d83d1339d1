"""Folders of images: what a scan takes and what it leaves out."""

import os

import pytest
from PIL import Image

from rmn_hub.images import find_images


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_left_out(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    left_out = {}
    assert find_images(tmp_path, on_left_out=left_out.update) == [tmp_path / "a.png"]
    assert left_out == {".png": 1}
