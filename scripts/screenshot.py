"""
Make README's image of the page, docs/space.png, in headless Chromium (Debian: chromium).

uv run python scripts/screenshot.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from space_helpers import CHROMIUM, EXAMPLES, browsing, serving, visiting  # noqa: E402


def main() -> None:
    """Start the page, give it the collage, and take the image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "space.png")
    parser.add_argument("--photo", type=Path, default=EXAMPLES / "collage.jpg")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    scheme = "dark" if arguments.dark else "light"
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "page") as server,
        browsing() as browser,
        visiting(browser, server, width=arguments.width, scheme=scheme) as page,
    ):
        page.set_input_files("#photo input[type=file]", arguments.photo)
        page.wait_for_selector("#result .rmn-result:not(:has(.rmn-note))")
        page.mouse.move(0, 0)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=arguments.output, full_page=True)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
