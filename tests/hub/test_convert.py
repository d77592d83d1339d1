"""The authors' pickles in: no tensor lost, nothing doubtful taken, none of a pickle's code run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hub_helpers import run
from hub_server import Hub, serving
from reference_weights import consistent, original_shapes, original_state_dict, pixel_values
from safetensors import SafetensorError
from typer.testing import CliRunner

from rmn_hub import RMNImageProcessor, RMNModel
from rmn_hub.cli.shared import main
from rmn_hub.errors import InputError
from rmn_hub.hub.convert import convert, convert_state_dict

AUTHORS = "phamquiluan/ResidualMaskingNetwork"


@pytest.fixture(scope="module")
def contradicting():
    return original_state_dict(salt=1)


@pytest.fixture(scope="module")
def original(contradicting):
    return consistent(contradicting)


def test_a_pickle_becomes_a_checkpoint(original, contradicting, tmp_path):
    torch.save({"net": original, "best_val_acc": 71.2}, tmp_path / "authors.pt")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "authors.pt"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".py"} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "source.json",
    }
    model, report = RMNModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert RMNImageProcessor.from_pretrained(tmp_path / "out").size["height"] == 224

    # The doubled shortcuts' first names do not count: the answers are those of the weights that contradict.
    _, state_dict = convert_state_dict(contradicting, allow_contradictions=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state_dict[name]), name
    second_names = [name for name in original if name.startswith("mask") and name.split(".")[1].startswith("down")]
    assert len(second_names) == 120
    assert len(state_dict) == len(original) - len(second_names)
    with torch.inference_mode():
        assert torch.isfinite(model.eval()(pixel_values(1)[:1]).logits).all()


def test_the_authors_repository_is_all_one_has_to_name(tmp_path):
    """Made weights of the original's names and shapes, whose file is small: each tensor repeats one value."""
    tensors = {
        name: torch.tensor(0 if name.endswith("num_batches_tracked") else 1.0 if "var" in name else 0.0).expand(shape)
        for name, shape in original_shapes().items()
    }
    tensors["fc.1.bias"] = torch.arange(7.0)
    torch.save({"net": tensors}, tmp_path / "weights")
    hub = Hub()
    for repository, file, content in (
        (AUTHORS, "Z_resmasking_dropout1_rot30_2019Nov30_13.32", (tmp_path / "weights").read_bytes()),
        ("py-feat/resmasknet", "ResMaskNet_Z_resmasking_dropout1_rot30.pth", b"something else"),
    ):
        hub.create(repository)
        hub.commit(repository, "main", {file: content})
    with serving(hub) as address:
        results = run(
            address,
            tmp_path,
            {
                "authors": ("convert", {"source": AUTHORS, "output": "out"}),
                "recognize": ("recognize_plainly", {"checkpoint": "out"}),
                "py-feat": ("convert", {"source": "py-feat/resmasknet", "output": "never"}),
                "another": ("convert", {"source": "some/body", "output": "never"}),
            },
        )
    assert results["authors"] == {"answer": "out"}
    size, probabilities = results["recognize"]["answer"]
    assert size == 224
    assert probabilities == pytest.approx(torch.arange(7.0).softmax(0).tolist(), abs=1e-6)
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert (source["repo_id"], source["file"]) == (AUTHORS, "Z_resmasking_dropout1_rot30_2019Nov30_13.32")
    # That it was found and downloaded shows in what is wrong with it.
    assert "damaged" in results["py-feat"]["message"]
    assert "does not exist" in results["another"]["message"]


def test_contradictions_are_refused(contradicting):
    with pytest.raises(InputError, match=r"two names of one tensor.*mask1.downsample1"):
        convert_state_dict(contradicting)


def test_missing_unknown_and_misshapen_tensors_are_named(original):
    without = {name: tensor for name, tensor in original.items() if name != "layer2.0.bn1.weight"}
    with pytest.raises(InputError, match=r"lacks layer2.0.bn1.weight"):
        convert_state_dict(without)
    with pytest.raises(InputError, match=r"holds extra.weight"):
        convert_state_dict({**original, "extra.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"fc.1.weight of shape"):
        convert_state_dict({**original, "fc.1.weight": torch.zeros(7, 3)})


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["code", "raw code", "text", "empty", "folder", "missing", "no state dict"])
def test_what_is_no_checkpoint_ends_with_a_sentence(tmp_path, kind):
    source = tmp_path / "source"
    if kind == "code":
        torch.save({"net": Malicious(tmp_path / "ran")}, source)
    elif kind == "raw code":
        source.write_bytes(pickle.dumps({"net": Malicious(tmp_path / "ran")}, protocol=2))
    elif kind == "text":
        source.write_text("not a checkpoint")
    elif kind == "empty":
        source.touch()
    elif kind == "folder":
        source.mkdir()
    elif kind == "no state dict":
        torch.save({"epoch": 3}, source)
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert str(source) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.output
    assert "weights_only" not in result.output  # torch advises to switch it off
    assert ("io.open" in result.stderr) == ("code" in kind)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("source", ["../no.pt", "./no/such/file.pt", "~/no/such/file.pt", "no.pt"])
def test_a_local_name_is_not_looked_for_on_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not exist"):
        convert(source, tmp_path / "out")


@pytest.fixture
def small(tiny_checkpoint, monkeypatch):
    """A source whose conversion takes no time."""
    model = RMNModel.from_pretrained(tiny_checkpoint)
    monkeypatch.setattr("rmn_hub.hub.convert.load_original", lambda path: {})
    monkeypatch.setattr("rmn_hub.hub.convert.convert_state_dict", lambda original: (model.config, model.state_dict()))
    return tiny_checkpoint / "model.safetensors"


@pytest.mark.parametrize("output", ["new/folder", "empty", ".", "link"])
def test_it_is_written_where_it_was_asked_for(output, small, tmp_path, monkeypatch):
    for folder in ("here", "empty", "linked"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "linked")
    (tmp_path / "here" / "empty").mkdir()
    here = tmp_path / ("empty" if output == "." else "here")
    monkeypatch.chdir(here)
    convert(small.parent, output, filename=small.name)
    assert (Path(output) / "preprocessor_config.json").is_file()
    assert RMNModel.from_pretrained(here / output).config.image_size == 32
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
@pytest.mark.parametrize("output", ["new", "empty"])
def test_a_full_disk_leaves_nothing_behind(output, error, small, tmp_path, monkeypatch):
    def fails(model, folder):
        folder.mkdir()
        (folder / "model.safetensors").touch()
        raise error

    monkeypatch.setattr(RMNModel, "save_pretrained", fails)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        convert(small, tmp_path / output)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_folder_with_content_is_not_written_over(original, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "any.pt"), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "`output`" in result.stderr
