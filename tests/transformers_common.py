"""transformers' own common tests, taken from the source distribution of the installed version.

They are no part of its wheel and are not copied here, so that they always fit the installed version: pip fetches them
from the configured package index once, and `CACHE` keeps them.
"""

import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import transformers
from filelock import FileLock

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "transformers"
PACKAGE = "transformers_tests"
FILES = ("test_configuration_common.py", "test_image_processing_common.py", "test_modeling_common.py")

# What those files import of the rest of transformers' repository, which the distribution leaves out: tests of export
# and of text generation, which RMN's would not inherit anyway, a lookup of pictures in an internal cache, and values
# for common settings that differ from their defaults.
STAND_INS = {
    f"{PACKAGE}/__init__.py": "",
    f"{PACKAGE}/exporters/__init__.py": "",
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin: ...\n",
    f"{PACKAGE}/generation/__init__.py": "",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    f"{PACKAGE}/utils/__init__.py": "",
    f"{PACKAGE}/utils/test_configuration_utils.py": (
        "config_common_kwargs = {\n"
        "    'return_dict': False,\n"
        "    'output_hidden_states': True,\n"
        "    'dtype': 'float16',\n"
        "    'chunk_size_feed_forward': 5,\n"
        "    'architectures': ['RMNForImageClassification'],\n"
        "    'id2label': {0: 'label'},\n"
        "    'label2id': {'label': '0'},\n"
        "    'problem_type': 'regression',\n"
        "}\n"
    ),
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


# Set by conftest.py.
config: pytest.Config | None = None


def load() -> tuple[ModuleType, ...]:
    """Return the modules of `FILES`; where they cannot be had, skip the calling module, or fail in CI."""
    root = CACHE / transformers.__version__
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):  # the workers of pytest-xdist collect at the same time
        if not (root / PACKAGE).is_dir():
            _fetch(root)
    # `--strict-markers` wants every mark known that they and transformers' helpers for tests put on a test.
    sources = [*(root / PACKAGE / name for name in FILES), Path(transformers.__file__).with_name("testing_utils.py")]
    for marker in {mark for path in sources for mark in re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8"))}:
        config.addinivalue_line("markers", f"{marker}: of transformers' common tests")
    sys.path.insert(0, str(root))
    try:
        return tuple(importlib.import_module(f"{PACKAGE}.{name.removesuffix('.py')}") for name in FILES)
    except ImportError as error:
        _do_without(f"they need what its distribution leaves out: {error}")
    finally:
        sys.path.remove(str(root))


def _do_without(reason: str) -> NoReturn:
    reason = f"The common tests of transformers {transformers.__version__} cannot be run: {reason}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def _fetch(root: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        download = Path(folder) / "download"
        quickly = ["--disable-pip-version-check", "--quiet", "--retries", "1", "--timeout", "20"]
        source = ["--no-deps", "--no-binary", ":all:", f"transformers=={transformers.__version__}"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *quickly, "download", *source, "--dest", str(download)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            _do_without(f"the source distribution cannot be fetched: {done.stderr.strip().splitlines()[-1:]}")
        parts = Path(folder) / "parts"
        for path, text in STAND_INS.items():
            (parts / path).parent.mkdir(parents=True, exist_ok=True)
            (parts / path).write_text(text)
        with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
            for member in archive.getmembers():
                *_, folder_name, name = ("", *Path(member.name).parts)
                if folder_name == "tests" and name in FILES:
                    (parts / PACKAGE / name).write_bytes(archive.extractfile(member).read())
        parts.rename(root)
