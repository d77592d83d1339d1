"""A server of the files of a folder on this machine, which may let a reader wait."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serving(folder, hold=lambda name: None):
    """
    Serve the files of `folder`, and yield the server's address.

    Args:
        folder: the folder; what is not in it is not found (404).
        hold: called with the name of a file before it is handed out, in a thread of its own.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            hold(name)
            data = (folder / name).read_bytes() if (folder / name).is_file() else b""
            with contextlib.suppress(OSError):  # who asked is gone
                self.send_response(200 if data else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True  # one that still waits for a file does not hold up the end
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
