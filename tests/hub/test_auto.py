"""transformers' Auto classes find RMN after `import rmn_hub`, whichever is imported first; each in its own process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "transformers", "gradio", "matplotlib", "facenet_pytorch", "onnxruntime", "scipy")
# What every one of them checks at its end.
FINDS = """
import transformers
from rmn_hub import BUNDLED_CHECKPOINT, RMNBackbone, RMNBaseModel, RMNConfig, RMNImageProcessor, RMNModel

config = transformers.AutoConfig.from_pretrained(BUNDLED_CHECKPOINT)
assert type(config) is RMNConfig
assert type(transformers.AutoModel.from_pretrained(BUNDLED_CHECKPOINT)) is RMNBaseModel
assert type(transformers.AutoModelForImageClassification.from_pretrained(BUNDLED_CHECKPOINT)) is RMNModel
assert type(transformers.AutoImageProcessor.from_pretrained(BUNDLED_CHECKPOINT)) is RMNImageProcessor
assert type(transformers.AutoBackbone.from_config(config)) is RMNBackbone
"""


def run(script):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_rmn_hub_first_which_imports_nothing_heavy():
    done = run(
        f"""
import sys
import rmn_hub
assert not [name for name in {HEAVY} if name in sys.modules]
assert set(rmn_hub.__all__) <= set(dir(rmn_hub))
assert not [name for name in {HEAVY} if name in sys.modules]
{FINDS}
from PIL import Image
classifier = transformers.pipeline("image-classification", model=BUNDLED_CHECKPOINT)
found = classifier(Image.linear_gradient("L"), top_k=7)
assert {{answer["label"] for answer in found}} == set(rmn_hub.EXPRESSIONS)
extractor = transformers.pipeline("image-feature-extraction", model=BUNDLED_CHECKPOINT)
assert len(extractor(Image.linear_gradient("L"), pool=True)[0]) == 256
assert not [name for name in rmn_hub.__all__ if not hasattr(rmn_hub, name)]
"""
    )
    assert "pil" not in done.stderr.lower()  # no warning about the image processor's backend


def test_transformers_first():
    run(f"from transformers import AutoModel\nimport rmn_hub\n{FINDS}")


def test_two_threads_at_once():
    run(
        f"""
import threading
from importlib import import_module

def take(names):
    try:
        barrier.wait()
        for module, name in names:
            getattr(import_module(module), name)
    except BaseException as error:
        failures.append(error)

failures, barrier = [], threading.Barrier(3)
ours = [("rmn_hub", "RMNImageProcessor"), ("rmn_hub", "RMNModel")]
theirs = [("transformers", "AutoImageProcessor"), ("transformers", "AutoModelForImageClassification")]
import rmn_hub
threads = [threading.Thread(target=take, args=[names]) for names in (ours, theirs, theirs[::-1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
{FINDS}
"""
    )


def test_after_an_import_that_failed_and_after_a_reload():
    run(
        f"""
import importlib
import sys
import rmn_hub

sys.modules["transformers.models.auto.auto_factory"] = None
try:
    import transformers.models.auto.modeling_auto
except ImportError:
    del sys.modules["transformers.models.auto.auto_factory"]
else:
    raise AssertionError
importlib.reload(rmn_hub)
auto = importlib.import_module("transformers.models.auto.configuration_auto")
assert importlib.reload(auto).AutoConfig.for_model("rmn").model_type == "rmn"
assert "Registering" not in repr(auto.__spec__)
{FINDS}
"""
    )


def test_after_second_imports():
    run(
        f"""
import importlib
import sys
import rmn_hub

for forgotten in ("rmn_hub._auto", "rmn_hub", "rmn_hub._auto"):
    for name in [name for name in sys.modules if (name + ".").startswith(forgotten + ".")]:
        del sys.modules[name]
    importlib.import_module(forgotten)
    importlib.import_module("rmn_hub._auto").register()
importlib.reload(sys.modules["rmn_hub._auto"]).register()
assert len([finder for finder in sys.meta_path if "Registering" in type(finder).__name__]) == 1
{FINDS}
"""
    )


def test_finders_that_ask_each_other_come_to_an_end():
    run(
        f"""
import sys
import rmn_hub

class Asking:
    def find_spec(self, *args):
        others = [finder for finder in sys.meta_path if finder is not self]
        return next((spec for spec in (finder.find_spec(*args) for finder in others) if spec), None)

sys.meta_path.insert(0, Asking())
{FINDS}
"""
    )


def test_transformers_works_where_torch_is_missing():
    done = run(
        """
import sys
import rmn_hub

sys.modules["torch"] = None
from transformers.models.auto import configuration_auto, image_processing_auto, modeling_auto
assert configuration_auto.AutoConfig.for_model("rmn").model_type == "rmn"
"""
    )
    assert "RMN cannot be registered" not in done.stderr


def test_transformers_works_where_rmn_cannot_be_imported_but_warns():
    done = run(
        """
import sys
import rmn_hub

for module in ("configuration_rmn", "image_processing_rmn", "modeling_rmn"):
    sys.modules["rmn_hub.model." + module] = None
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel
"""
    )
    assert "RMN cannot be registered" in done.stderr
