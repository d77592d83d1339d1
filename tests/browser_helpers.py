"""The static page for tests: built once, and handed out by a server that counts what it sends."""

import functools
import shutil
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_helpers import run
from playwright.sync_api import expect
from space_helpers import CHROMIUM

from rmn_hub import BUNDLED_CHECKPOINT

WHY_NOT = (
    "Chromium is not installed (Debian: apt-get install chromium)"
    if CHROMIUM is None
    else "npm is not installed: the page's runtime comes from there"
    if shutil.which("npm") is None
    else None
)
# Milliseconds that a page may take for anything.
TIMEOUT = 120_000
# What the front matter of a static Space asks the Hub to send along.
HEADERS = {
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_page(folder, runtime=None, checkpoint=BUNDLED_CHECKPOINT):
    """The page of a checkpoint, by the command that users have."""
    more = () if runtime is None else ("--runtime", runtime)
    result = run("export", checkpoint, folder, "--browser", *more)
    if "cannot be downloaded" in result.output and "404" not in result.output:
        pytest.skip("npm cannot download the page's runtime: is there no network?")
    assert result.exit_code == 0, result.output
    return folder


class _Handler(SimpleHTTPRequestHandler):
    def guess_type(self, path):
        # Browsers take modules of this type alone, and not every system's list has it.
        return "text/javascript" if str(path).endswith((".js", ".mjs")) else super().guess_type(path)

    def end_headers(self):
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def copyfile(self, source, outputfile):
        content = source.read()
        self.server.sent[self.path] += len(content)
        outputfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def handing_out(folder, headers=HEADERS):
    """A server of files; `sent` counts the bytes of each path, `url` is its address, `stop` ends it early."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    server.daemon_threads = True
    server.headers, server.sent = headers, Counter()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop():
        server.shutdown()
        server.server_close()

    server.stop = stop
    try:
        yield server
    finally:
        if thread.is_alive():
            stop()
            thread.join()


@contextmanager
def visiting(browser, server, width=1400, height=900, scheme="light", **options):
    """A visitor's page with its first result; it must ask nobody but its server, and break no rule of its policy."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, permissions=["camera"], **options
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    outside, errors = [], []
    own = (server.url, f"blob:{server.url}", "data:")
    context.on("request", lambda request: request.url.startswith(own) or outside.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and errors.append(line.text))
    try:
        page.goto(server.url)
        expect(page.locator("#result .rmn-result")).to_be_visible()
        yield page
        assert outside == []
        assert errors == []
    finally:
        context.close()
