"""A file server on 127.0.0.1 that can cut connections, ignore ranges, change files and answer with errors."""

import hashlib
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """What the server has and how it behaves; `address` is where.

    Attributes:
      files: path -> bytes.
      requests: (path, Range or "") of every request.
      cuts: numbers of bytes after which the connections of the next requests are cut, in this order.
      statuses: statuses of the next requests, in this order, instead of the file.
      ranges, validators, lengths: whether it sends parts, an ETag, and the length.
      ignores_if_range: whether it sends a part even of another version than the one that was asked for.
      content_type: of every answer.
      gate: sending waits for this event after the first half.
    """

    def __init__(self, files):
        self.files, self.requests, self.cuts, self.statuses = files, [], [], []
        self.ranges = self.validators = self.lengths = True
        self.ignores_if_range = False
        self.content_type, self.gate, self.halfway = "application/octet-stream", None, threading.Event()
        self.address = ""

    def answer(self, handler):
        path, asked = handler.path, handler.headers.get("Range", "")
        self.requests.append((path, asked))
        data = self.files.get(path)
        status = self.statuses.pop(0) if self.statuses else 200 if data is not None else 404
        if status != 200:
            handler.send_error(status)
            return
        tag, start, total = f'"{hashlib.md5(data).hexdigest()}"', 0, len(data)
        same = self.ignores_if_range or handler.headers.get("If-Range", tag) == tag
        if asked and self.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            status = 206 if start < total else 416
        handler.send_response(status)
        handler.send_header("Content-Type", self.content_type)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if status == 416:
            handler.send_header("Content-Range", f"bytes */{total}")
        if self.validators:
            handler.send_header("ETag", tag)
        body = b"" if status == 416 else data[start:]
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.close_connection = True
        body = body[: self.cuts.pop(0)] if self.cuts else body
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        self.halfway.set()
        if self.gate:
            self.gate.wait(20)
        handler.wfile.write(body[len(body) // 2 :])


@contextmanager
def serving(files):
    """Yields a running `FileServer`."""
    server = FileServer(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            try:
                server.answer(self)
            except ConnectionError:  # the client was killed
                self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
