"""The private folder: the one place where the page writes. Imports nothing of gradio, which reads it at import."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path


class PrivateFolder:
    """
    The only place where this process writes: readable by its user alone, removed when it ends, and swept meanwhile. It
    lies in `GRADIO_TEMP_DIR` (or the system's temporary folder), in a folder shared by all pages of this user; what a
    killed page left there is removed at the next start.
    """

    def __init__(self) -> None:
        root = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
        user = getattr(os, "getuid", lambda: 0)()
        self.parent = root / f"rmn-hub-{user}"
        self.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and (self.parent.is_symlink() or self.parent.stat().st_uid != user):
            raise PermissionError(f"{self.parent} belongs to another user: set GRADIO_TEMP_DIR to a folder of your own")
        self.parent.chmod(0o700)
        for left in self.parent.iterdir():
            if left.name.isdigit() and not _is_running(int(left.name)):
                shutil.rmtree(left, ignore_errors=True)
        self.path = self.parent / str(os.getpid())
        self.uploads = self.path / "uploads"
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700)
        self.uploads.mkdir()

    def use(self) -> None:
        """Make gradio and Python write here. Call it before gradio is imported."""
        os.environ["GRADIO_TEMP_DIR"] = str(self.uploads)
        tempfile.tempdir = str(self.path)

    def sweep(self, age: float) -> None:
        """
        Remove all files older than `age` seconds, and the uploads' folders when they are empty: also half an upload,
        which gradio forgets, and other pages'.
        """
        before = time.time() - age
        # Other threads remove folders meanwhile: os.walk goes on without them.
        for folder, _, files in os.walk(self.parent):
            place = Path(folder)
            with contextlib.suppress(OSError):
                old = place.stat().st_mtime < before
                for name in files:
                    with contextlib.suppress(OSError):
                        if (place / name).is_file() and (place / name).stat().st_mtime < before:
                            (place / name).unlink()
                # Gradio makes a folder for each upload, named by its hash. One with a file in it stays.
                if old and self.uploads.name in place.relative_to(self.parent).parts[:-1]:
                    place.rmdir()

    def remove(self) -> None:
        """Remove everything, and the shared folder when this was the last page."""
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.parent.rmdir()
        except OSError:
            return


def _is_running(process: int) -> bool:
    """Return whether there is a process of this number."""
    if os.name == "nt":
        return True  # there, signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
