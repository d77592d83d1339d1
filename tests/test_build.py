"""What a package index shows of the package: a description whose links lead somewhere, and addresses."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="building a wheel needs hatchling, which is a development dependency")

ROOT = Path(__file__).parents[1]
ADDRESS = "https://example.org/you/rmn-hub"


def metadata_of(**settings):
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    metadata = {}
    module.IndexPage(str(ROOT), settings).update(metadata)
    return metadata


def targets(metadata):
    return re.findall(r"(!?)\[[^\]]*\]\(([^)]*)\)", metadata["readme"]["text"])


def test_links_and_images_lead_to_files_of_the_repository():
    metadata = metadata_of(address=f"{ADDRESS}/")
    found = targets(metadata)
    assert {image for image, _ in found} == {"!", ""}
    for image, target in found:
        begin = f"{ADDRESS}/{'raw' if image else 'blob'}/main/"
        if target.startswith(ADDRESS):
            assert target.startswith(begin)
            assert (ROOT / target.removeprefix(begin).partition("#")[0]).exists(), target
        else:
            assert target.startswith("https://")
    assert f"git clone {ADDRESS} " in metadata["readme"]["text"]
    assert metadata["urls"]["Repository"] == ADDRESS
    assert all(address.startswith("https://") for address in metadata["urls"].values())


def test_without_an_address_no_link_leads_nowhere():
    metadata = metadata_of()
    assert all(target.startswith("https://") for _, target in targets(metadata))
    assert "the model card" in metadata["readme"]["text"]
    assert set(metadata["urls"]) == {"Paper", "Authors' weights"}
