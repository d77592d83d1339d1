"""The front door: importing the package is instant, and its names come when they are used."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rmn_hub

HEAVY = {"torch", "transformers", "torchvision", "gradio", "matplotlib", "facenet_pytorch"} | {
    *("numpy", "PIL", "onnxruntime", "pandas"),
}


def python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_imports_nothing_heavy():
    done = python("import rmn_hub", "-X", "importtime")
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "rmn_hub" in imported
    assert not imported & HEAVY
    assert done.stdout == ""


def test_importing_it_prints_nothing():
    done = python("import rmn_hub")
    assert (done.stdout, done.stderr) == ("", "")


def test_every_name_is_there():
    assert set(rmn_hub._LAZY) < set(rmn_hub.__all__) <= set(dir(rmn_hub))
    for name in rmn_hub.__all__:
        assert getattr(rmn_hub, name) is not None
    for name in ("ExpressionRecognizer", "ImageResult", "FaceExpression", "Face", "FaceDetector", "InputError"):
        assert name in rmn_hub.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rmn_hub.no_such_name
    names = {}
    exec("from rmn_hub import *", names)
    assert set(rmn_hub.__all__) <= set(names)


def test_lazy_names_are_those_that_the_type_checker_sees():
    """`TYPE_CHECKING` and `_LAZY` name the same places."""
    source = importlib.util.find_spec("rmn_hub").loader.get_source("rmn_hub")
    for name, module in rmn_hub._LAZY.items():
        lines = [line for line in source.splitlines() if line.startswith(f"    from .{module} import ")]
        assert lines, module
        assert any(name in line for line in lines) or f"        {name}," in source, name


def test_the_module_of_the_recognizer_needs_neither_torch_nor_transformers():
    code = "import sys, rmn_hub.recognizer; print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    assert python(code).stdout == "[]\n"


@pytest.mark.parametrize("first", ["rmn_hub", "transformers"])
def test_the_auto_classes_take_rmn_in_either_order(first):
    second = "transformers" if first == "rmn_hub" else "rmn_hub"
    code = (
        f"import {first}\nimport {second}\n"
        "config = transformers.AutoConfig.for_model('rmn')\n"
        "models = transformers.AutoModelForImageClassification._model_mapping\n"
        "print(type(config).__name__, models[type(config)].__name__)"
    )
    names = python(code).stdout.split()
    assert names[0] == "RMNConfig"
    assert names[1].startswith("RMN")


def test_what_is_raised_is_one_family():
    for name in ("InputError", "CheckpointError", "TrainingError"):
        assert issubclass(getattr(rmn_hub, name), rmn_hub.RMNError)
    assert issubclass(rmn_hub.InputError, ValueError)
    assert issubclass(rmn_hub.CheckpointError, rmn_hub.InputError)
    assert issubclass(rmn_hub.TrainingError, RuntimeError)


def test_the_package_runs_from_a_zip_file(tmp_path):
    package = Path(rmn_hub.__file__).parent
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for file in package.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(package.parent))
    photo = package.parent / "space" / "examples" / "astronaut.jpg"
    code = f"""
import sys
import zipfile
from pathlib import Path
sys.path.insert(0, {str(tmp_path / "package.zip")!r})
import rmn_hub
assert "package.zip" in rmn_hub.__file__
print([face.expression for face in rmn_hub.ExpressionRecognizer.from_pretrained()({str(photo)!r})])
print(rmn_hub.BUNDLED_CHECKPOINT)
"""
    shown, folder = python(code).stdout.splitlines()
    assert shown == "['happy']"
    assert not Path(folder).exists()  # what was unpacked is gone
