"""A Hugging Face Hub on loopback: enough of its protocol to load models and datasets from."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(.*))?"
)
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[str]:
    """Serves folders as repositories ("models/owner/name" or "datasets/owner/name"); its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            if match := FILE.fullmatch(path):
                kind, name, _, file = match.groups()
                self._file(f"{kind or 'models'}/{name}", file)
            elif match := API.fullmatch(path):
                kind, name, what, _, rest = match.groups()
                self._about(f"{kind}/{name}", what, (rest or "").strip("/"))
            else:
                self._missing("RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match = API.fullmatch(unquote(urlparse(self.path).path))
            if match is None or f"{match[1]}/{match[2]}" not in repositories:
                self._missing("RepoNotFound")
                return
            text = body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            folder = repositories[f"{match[1]}/{match[2]}"]
            paths = [p for p in asked.get("paths", []) if (folder / p).exists()]
            self._json([_entry(folder, folder / p) for p in paths])

        def _about(self, repository: str, what: str | None, below: str) -> None:
            folder = repositories.get(repository)
            if folder is None:
                self._missing("RepoNotFound")
            elif what == "tree":
                start = folder / below
                if start.is_dir():
                    recursive = "true" in parse_qs(urlparse(self.path).query).get("recursive", "")
                    found = start.rglob("*") if recursive else start.iterdir()
                    self._json([_entry(folder, p) for p in sorted(found)])
                else:
                    self._missing("EntryNotFound")
            else:
                files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
                siblings = [{"rfilename": str(p.relative_to(folder))} for p in files]
                name = repository.split("/", 1)[1]
                self._json(
                    {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
                )

        def _file(self, repository: str, file: str) -> None:
            folder = repositories.get(repository)
            if folder is None:
                self._missing("RepoNotFound")
            elif not (folder / file).is_file():
                self._missing("EntryNotFound")
            else:
                self._send((folder / file).read_bytes(), "application/octet-stream")

        def _json(self, value: object) -> None:
            self._send(json.dumps(value).encode(), "application/json")

        def _missing(self, code: str) -> None:
            self._send(b"{}", "application/json", 404, {"X-Error-Code": code})

        def _send(
            self, body: bytes, kind: str, status: int = 200, extra: Mapping[str, str] | None = None
        ) -> None:
            start, total = 0, len(body)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted and status == 200:
                start = int(wanted[1])
                body = body[start : int(wanted[2]) + 1 if wanted[2] else total]
                status = 206
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
            for name, value in (extra or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _entry(folder: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": sha1(name.encode()).hexdigest()}
    oid = sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}
