"""
The start of the command line: `rmn-hub` and `python -m rmn_hub` (which `accelerate launch -m rmn_hub train` uses).

What can go wrong around a command ends here, without a traceback: Ctrl-C before the command runs, a stop by SIGTERM, a
reader that goes away (`| head`), a full disk behind stdout, a terminal whose encoding lacks a name's characters.
"""

import errno
import os
import signal
import sys
from typing import TextIO

# What writing to stdout or stderr fails with when there is no room left, or the reader has gone.
_STREAM_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Run the command line, and exit with its code."""
    code: int | str | None = 0
    try:
        signal.signal(signal.SIGTERM, _stop)
        # A shell's `>&-` closes a stream, which Python then has as None.
        sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # an embedding program may have replaced it
                stream.reconfigure(errors="backslashreplace")
        from .cli import main as commands

        commands()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    except OSError as error:
        if error.errno not in _STREAM_ERRORS:
            raise
        code = _lost(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            code = _lost(error, stream)
    sys.exit(code)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # noqa: PTH123 (a device, for as long as the process lasts)


def _stop(*_: object) -> None:
    """End as Ctrl-C does, so that nothing half-written stays: 143 is what a shell shows for SIGTERM."""
    raise SystemExit(128 + signal.SIGTERM)


def _lost(error: OSError, stream: TextIO | None = None) -> int:
    """Report that output is lost, unless its reader went away, and return the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, (stream or sys.stdout).fileno())  # or Python would report it again while it exits
    if error.errno != errno.EPIPE and stream is not sys.stderr:
        print(f"rmn-hub: the output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
