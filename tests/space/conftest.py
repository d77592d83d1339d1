"""What the tests of the page share: its server, Chromium with a camera, and a visitor who asks no other host."""

import pytest
from space_helpers import browsing, serving, visiting, write_film


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page") / "temporary") as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(write_film(tmp_path_factory.mktemp("film") / "face.y4m")) as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    outside = []
    with visiting(browser, server, outside=outside) as page:
        yield page
    assert outside == []
