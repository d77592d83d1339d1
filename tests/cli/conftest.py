"""What the files of `rmn-hub predict` share."""

import pytest
from cli_helpers import run


@pytest.fixture
def predict(tiny_checkpoint):
    """Runs `rmn-hub predict` in this process, with the tiny network."""

    def call(*words, checkpoint=tiny_checkpoint, **settings):
        return run("predict", *words, "--checkpoint", checkpoint, "--device", "cpu", **settings)

    return call


@pytest.fixture
def photos(tmp_path, astronaut, collage, faceless):
    """A folder with photos in it and in a folder in it, two of them with one name."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    astronaut.crop((100, 0, 400, 300)).save(folder / "a.jpg", quality=95)
    faceless.crop((0, 0, 200, 150)).save(folder / "b.png")
    collage.crop((0, 0, 512, 256)).save(folder / "more" / "a.jpg", quality=95)
    (folder / "notes.txt").write_text("not an image")
    return folder
