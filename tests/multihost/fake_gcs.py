"""A bucket on localhost, for the three that read and write gs:// paths here: gcsfs (and so etils), TensorStore (and so
Orbax), and tests, which look into it.

    python fake_gcs.py      prints its URL and serves until it is killed
"""

import base64
import hashlib
import json
import re
import sys
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class FakeGcs:
    """Objects in memory, whole or not there; the part of the storage API that these clients use.

    Attributes:
      objects: "BUCKET/NAME" -> bytes.
      url: of the server.
    """

    def __init__(self):
        self.objects, self.generations, self.lock = {}, {}, threading.RLock()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("localhost", 0), handler)
        self.url = f"http://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self):
        """What makes clients ask here, with no credentials."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }

    def put(self, key, data):
        with self.lock:
            self.objects[key] = data
            self.generations[key] = self.generations.get(key, 0) + 1

    def describe(self, key):
        bucket, _, name = key.partition("/")
        data = self.objects[key]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(data)),
            "generation": str(self.generations[key]),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "contentType": "application/octet-stream",
            "timeCreated": "2020-01-01T00:00:00.000Z",
            "updated": "2020-01-01T00:00:00.000Z",
        }

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FakeGcs

    def do_GET(self):
        path, query = self._request()
        if match := re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)/o/(.+)", path):
            key = f"{match[1]}/{unquote(match[2])}"
            with self.store.lock:
                if key not in self.store.objects:
                    self._send(404, {"error": {"code": 404, "message": f"No such object: {key}"}})
                elif query.get("alt") == "media" or path.startswith("/download"):
                    self._send_range(key)
                else:
                    self._send(200, self.store.describe(key))
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            self._send(200, self._list(match[1], query))
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)", path):
            self._send(200, {"kind": "storage#bucket", "name": match[1], "location": "US"})
        else:
            self._send(404, {"error": {"code": 404, "message": path}})

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        with self.store.lock:
            for key in sorted(self.store.objects):
                name = key.removeprefix(f"{bucket}/")
                if not key.startswith(f"{bucket}/") or not name.startswith(prefix):
                    continue
                inner = name[len(prefix) :]
                if delimiter and delimiter in inner:
                    folders.add(prefix + inner.partition(delimiter)[0] + delimiter)
                elif query.get("startOffset", "") <= name and name < query.get("endOffset", "\U0010ffff"):
                    items.append(self.store.describe(key))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def do_POST(self):
        path, query = self._request()
        body = self._body()
        if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o/?", path):
            name, data = query.get("name"), body
            if query.get("uploadType") == "multipart":
                about, data = _parts(self.headers["Content-Type"], body)
                name = json.loads(about)["name"]
            if query.get("uploadType") == "resumable":
                name = name or json.loads(body)["name"]
                self._send(200, {}, Location=f"{self.store.url}/resumable/{match[1]}?name={name}")
                return
            self._put(f"{match[1]}/{name}", data, query)
        elif match := re.fullmatch(r"/resumable/([^/]+)", path):
            self._put(f"{match[1]}/{query['name']}", body, query)
        else:
            self._send(404, {"error": {"code": 404, "message": path}})

    do_PUT = do_POST

    def _put(self, key, data, query):
        wanted = query.get("ifGenerationMatch")
        with self.store.lock:
            now = self.store.generations[key] if key in self.store.objects else 0
            if wanted is not None and int(wanted) != now:
                self._send(412, {"error": {"code": 412, "message": "conditionNotMet"}})
                return
            self.store.put(key, data)
            self._send(200, self.store.describe(key))

    def do_DELETE(self):
        path, _ = self._request()
        match = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path)
        with self.store.lock:
            found = self.store.objects.pop(f"{match[1]}/{unquote(match[2])}", None)
        self._send(204 if found is not None else 404, None if found is not None else {"error": {"code": 404}})

    def _request(self):
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send_range(self, key):
        data = self.store.objects[key]
        start, end = 0, len(data)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or end - 1) + 1, end)
            if start >= len(data):
                self._send(416, {"error": {"code": 416}})
                return
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("x-goog-generation", str(self.store.generations[key]))
        self.send_header("x-goog-stored-content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[start:end])

    def _send(self, status, answer, **headers):
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def _parts(content_type, body):
    """The parts of a multipart/related message."""
    boundary = re.search(r"boundary=[\"']?([^\"';]+)", content_type)[1].encode()
    for part in body.split(b"--" + boundary)[1:-1]:
        _, _, content = part.lstrip(b"\r\n").partition(b"\n\r\n" if b"\n\r\n" in part else b"\n\n")
        yield content.removesuffix(b"\n").removesuffix(b"\r")


if __name__ == "__main__":
    server = FakeGcs()
    print(server.url, flush=True)
    threading.Event().wait(float(sys.argv[1]) if sys.argv[1:] else None)
