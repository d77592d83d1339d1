"""What the tests of the page without a server share: the page that is built, who hands it out, and a visitor."""

import pytest
from browser_helpers import TIMEOUT, build_page, handing_out, visiting
from playwright.sync_api import expect


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_page(tmp_path_factory.mktemp("static") / "page")


@pytest.fixture(scope="module")
def server(folder):
    with handing_out(folder) as server:
        yield server


@pytest.fixture(scope="module")
def browser(browser):
    expect.set_options(timeout=TIMEOUT)
    return browser


@pytest.fixture
def visit(browser, server):
    with visiting(browser, server) as page:
        yield page
