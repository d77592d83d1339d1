"""
Many photos from several visitors at once, and live frames: do all get a result, how fast, and does memory stay flat?

uv run python scripts/load_space.py --photos 200 --clients 4
"""

import argparse
import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from space_helpers import CHROMIUM, EXAMPLES, as_data_url, browsing, serving, start_camera, visiting, write_film  # noqa: E402


def main() -> None:
    """Start a page and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--live-seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "page") as server:
        started = time.monotonic()
        server.predict({"url": as_data_url(EXAMPLES / "astronaut.jpg")})
        print(
            f"start to page {server.seconds:.1f} s, to first result {server.seconds + time.monotonic() - started:.1f} s"
        )
        photos(server, arguments.photos, arguments.clients)
        if CHROMIUM is None:
            print("Chromium is not installed: live was not tried")
        else:
            live(server, Path(folder), arguments.live_seconds)


def photos(server, count: int, clients: int) -> None:  # noqa: ANN001
    """`count` photos, each client one after the other, half by `gradio_client` and half by plain HTTP."""
    from gradio_client import Client, handle_file

    names = itertools.cycle(["astronaut.jpg", "collage.jpg", "officer.jpg", "coffee.jpg"])
    todo = iter([next(names) for _ in range(count)])
    lock, seconds, faces, memory = threading.Lock(), [], [], [server.memory()]

    def work(number: int) -> None:
        client = Client(server.url, verbose=False) if number % 2 else None
        while True:
            with lock:
                name = next(todo, None)
            if name is None:
                return
            began = time.monotonic()
            if client is None:
                result = server.predict({"url": as_data_url(EXAMPLES / name)})
            else:
                result = client.predict(handle_file(str(EXAMPLES / name)), api_name="/predict")
            with lock:
                seconds.append(time.monotonic() - began)
                faces.append(len(result["faces"]))
                if len(seconds) % max(1, count // 4) == 0:
                    memory.append(server.memory())

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds.sort()
    print(
        f"{len(seconds)} of {count} photos classified in {time.monotonic() - began:.0f} s by {clients} clients, "
        f"{sum(faces)} faces; median {seconds[len(seconds) // 2]:.2f} s, slowest {seconds[-1]:.2f} s"
    )
    print("memory in MB, before and after each quarter: " + ", ".join(f"{value:.0f}" for value in memory))


def live(server, folder: Path, seconds: float) -> None:  # noqa: ANN001
    """Frames a second with one and with two cameras."""
    film = write_film(folder / "face.y4m", rate=30)
    for visitors in (1, 2):
        with browsing(film) as browser:
            pages = [visiting(browser, server) for _ in range(visitors)]
            opened = [page.__enter__() for page in pages]
            for page in opened:
                start_camera(page)
                page.wait_for_selector(".rmn-status")
            end, shown = time.monotonic() + seconds, []
            while time.monotonic() < end:
                opened[0].wait_for_timeout(1000)
                shown.append(" / ".join(" ".join(page.locator(".rmn-status").inner_text().split()) for page in opened))
            print(f"live, {visitors} at once, 640 x 480: {shown[len(shown) // 2]}; {shown[-1]}")
            for page in pages:
                page.__exit__(None, None, None)
    print(f"files while live: {[file for file in server.files() if not file.endswith('.jpg')]}")


if __name__ == "__main__":
    main()
