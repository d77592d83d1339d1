"""Folders of images: what a scan takes and what it leaves out."""

import os

import pytest
from PIL import Image

from rmn_hub import InputError
from rmn_hub.images import LINKED, find_images, left_out_sentence
from rmn_hub.video.sources import find_films


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_left_out(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    left_out = {}
    assert find_images(tmp_path, on_left_out=left_out.update) == [tmp_path / "a.png"]
    assert left_out == {".png": 1}


def test_linked_folders_are_counted(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "folder"
    (folder / "out").mkdir(parents=True)
    for name in ("a.png", "a.mp4"):
        (tmp_path / "elsewhere" / name).touch()
        (folder / name).touch()
        (folder / "out" / name).touch()
    for name in ("link", ".hidden", "more"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (folder / "outputs").symlink_to(folder / "out")
    left_out, sentences = {}, []
    assert find_images(folder, [folder / "out"], on_left_out=left_out.update) == [folder / "a.png"]
    assert left_out == {LINKED: 2, ".mp4": 1}
    assert left_out_sentence(left_out).startswith("1 file is not an image: 1 .mp4; 2 linked folders are left out")
    assert find_films(folder, [folder / "out"], sentences.append) == [folder / "a.mp4"]
    [sentence] = sentences
    assert "2 linked folders" in sentence
    for name in ("a.png", "a.mp4"):
        (folder / name).unlink()
    for find in (find_images, find_films):
        with pytest.raises(InputError, match="2 linked folders"):
            find(folder, [folder / "out"])
