"""
Run the steps of the Dockerfile without a container engine, in a temporary folder, and start what it starts.

    uv run python scripts/run_dockerfile.py /usr/bin/python3.12

The argument is a Python of the version in `FROM`, without packages of its own. Prints how large the packages are, and
how long the page takes until the health check passes. Needs the package index, 1 GB and the port in `EXPOSE`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = "/home/user"
# The folders of the image that its steps name; here they lie in a temporary one.
FOLDERS = (HOME, "/build", "/packages")
# A page that has not started by then will not.
SECONDS = 300


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile in order, each on one line."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(name, value) for name, _, value in (line.strip().partition(" ") for line in lines) if name]


def main(python: Path) -> None:
    """Run the steps with a Python, and print what they took."""
    steps = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    version = re.match(r"python:(\d+\.\d+)-slim\b", dict(steps)["FROM"])
    found = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    if version is None or not found.startswith(f"{version[1]}."):
        sys.exit(f"{python} is Python {found}, not that of {dict(steps)['FROM']}")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        home = root / HOME[1:]
        programs = root / "bin"
        programs.mkdir()
        (programs / "python").symlink_to(python)
        (programs / "pip").write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -m pip "$@"\n')
        (programs / "pip").chmod(0o755)
        environment = {"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin", "PYTHONUSERBASE": str(home / ".local")}
        environment |= {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_"))}
        folder = root
        for name, value in steps:
            value = re.sub(f"(?<![\\w.])({'|'.join(FOLDERS)})", lambda found: f"{root}{found[0]}", value)
            if name == "WORKDIR":
                folder = Path(value)
                folder.mkdir(parents=True)
            elif name == "ENV":
                for word in shlex.split(value):
                    key, _, text = word.partition("=")
                    environment[key] = text.replace("$PATH", environment["PATH"])
            elif name == "COPY":
                *sources, target = [word for word in shlex.split(value) if not word.startswith("--")]
                for source in sources:
                    _copy(ROOT / source, folder / target)  # from another stage, the source is absolute
            elif name == "RUN" and not value.startswith("useradd"):
                print(f"RUN {value}", flush=True)
                subprocess.run(value, shell=True, cwd=folder, env=environment, check=True)
        packages = sum(path.lstat().st_size for path in home.rglob("*") if path.is_file())
        print(f"packages: {packages / 1e6:.0f} MB")
        _start(dict(steps), folder, environment)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target / source.name if target.is_dir() else target)


def _start(steps: dict[str, str], folder: Path, environment: dict[str, str]) -> None:
    """Run CMD until the health check passes, and end it."""
    check = json.loads(steps["HEALTHCHECK"].partition("CMD ")[2])
    began = time.monotonic()
    page = subprocess.Popen(_found(json.loads(steps["CMD"]), environment), cwd=folder, env=environment)
    try:
        while subprocess.run(_found(check, environment), env=environment, capture_output=True, check=False).returncode:
            if page.poll() is not None or time.monotonic() - began > SECONDS:
                sys.exit("the page did not start")
            time.sleep(1)
        print(f"healthy after {time.monotonic() - began:.0f} s")
    finally:
        page.terminate()
        page.wait(60)


def _found(command: list[str], environment: dict[str, str]) -> list[str]:
    return [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
