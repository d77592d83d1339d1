"""`rmn-hub export`."""

import pytest
from cli_helpers import files_of, run
from evaluation_helpers import faces, save_checkpoint, write_set

from rmn_hub.engines.onnx import OnnxEngine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint")


def test_a_checkpoint_gets_its_onnx_file(checkpoint):
    result = run("export", checkpoint)
    assert result.exit_code == 0, result.output
    assert OnnxEngine.from_checkpoint(checkpoint).image_size == 32
    assert str(checkpoint / "onnx" / "model.onnx") in result.stdout
    assert "100.0%" in result.stdout


def test_accuracies_are_of_the_given_faces(checkpoint, tmp_path):
    write_set(tmp_path / "data" / "test.parquet", faces(70), [number % 7 for number in range(70)])
    result = run("export", checkpoint, tmp_path / "own.onnx", "--data", tmp_path / "data", "--split", "all")
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.stdout
    assert files_of(tmp_path) == ["data/test.parquet", "own.onnx"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["{checkpoint}", "--fp16", "--int8"], "--int8"),
        (["{checkpoint}", "{out}", "--int8"], "--data"),
        (["{checkpoint}", "{out}", "--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_exported_ends_in_a_sentence(checkpoint, tmp_path, words, named):
    result = run("export", *(word.format(checkpoint=checkpoint, out=tmp_path / "out") for word in words))
    assert result.exit_code == 2
    assert named in result.stderr
    assert files_of(tmp_path) == []
