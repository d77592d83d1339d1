"""
The start of the command line: `rmn-hub` and `python -m rmn_hub` (which `accelerate launch -m rmn_hub train` uses).

What can go wrong around a command ends here, without a traceback: Ctrl-C before the command runs, a stop by SIGTERM or
SIGHUP, a reader that goes away (`| head`), a full disk behind stdout, a terminal whose encoding lacks a name's
characters.
"""

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
from typing import Any, TextIO

# What writing to stdout or stderr fails with when there is no room left, or the reader has gone.
_STREAM_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
# The stops beside Ctrl-C; Windows has no SIGHUP, which comes when a terminal or a connection goes away.
_STOPS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_RETRY_SECONDS = 0.05


def main() -> None:
    """Run the command line, and exit with its code."""
    code: int | str | None = 0
    try:
        for number in _STOPS:
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
                signal.signal(number, _stop)
        sys.unraisablehook = _stop_again
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
    if "ray" in sys.modules and (code is None or isinstance(code, int)):
        _leave(code or 0)
    sys.exit(code)


def _leave(code: int) -> None:
    """
    End the process without the destructors of compiled code, as Ray ends its workers.

    Threads of Ray (gRPC's, the client of its control store) outlive `ray.shutdown`. Of the batches of the tests about
    one in thirty had written everything and was then ended by SIGABRT, while the interpreter took itself apart.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # noqa: PTH123 (a device, for as long as the process lasts)


def _stop(number: int, _: object) -> None:
    """End as Ctrl-C does, so that nothing half-written stays, with the code that a shell shows for this signal."""
    raise SystemExit(128 + number)


def _stop_again(ignored: Any) -> None:
    """
    Repeat a stop that Python had to ignore, because it came while a destructor or a library's compiled part ran.

    Ray's wait for results is such a part: without this the batch would go on to its end.
    """
    stop = ignored.exc_value
    if isinstance(stop, KeyboardInterrupt):
        number = signal.SIGINT
    elif isinstance(stop, SystemExit) and isinstance(stop.code, int) and stop.code - 128 in _STOPS:
        number = signal.Signals(stop.code - 128)
    else:
        return sys.__unraisablehook__(ignored)
    # Later: raised from here, it would be ignored again.
    again = threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return None


def _lost(error: OSError, stream: TextIO | None = None) -> int:
    """Report that output is lost, unless its reader went away, and return the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, (stream or sys.stdout).fileno())  # or Python would report it again while it exits
    if error.errno != errno.EPIPE and stream is not sys.stderr:
        print(f"rmn-hub: the output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
