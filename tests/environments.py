"""Fresh Python environments without downloads: links to the packages that are installed here, and to no other."""

import re
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(requirements):
    """The names of the distributions that pip would install for some requirements."""
    found = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in found:
            continue
        found.add(key)
        for text in metadata.distribution(wanted.name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": name}) for name in (*key[1], "")):
                waiting.append(needed)
    return {name for name, _ in found}


def fresh_environment(folder, requirements, packages=()):
    """
    The Python of a new environment that has what some requirements ask for, and the packages in some folders.

    Versions are those of the tests' own environment, whatever the requirements ask for.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for package in packages:
        (site / package.name).symlink_to(package)
    for name in closure(requirements):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files}:
            # An editable install is no more than a `.pth`, which would lead to all of a checkout.
            if top not in ("..", "__pycache__") and not top.endswith(".pth") and not (site / top).exists():
                (site / top).symlink_to(Path(distribution.locate_file(top)).resolve())
    return folder / "bin" / "python"


def requirements_in(text):
    """The requirements in the lines of a file of pip's, or in the arguments of one `pip install`."""
    words = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    return [word for word in words if re.match(r"[\w.-]+", word)]
