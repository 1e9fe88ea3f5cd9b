"""A Hugging Face Hub on loopback: enough of its protocol to load from it and to commit to it."""

import base64
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
COMMITTING = re.compile(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)")
LARGE_FILES = re.compile(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
WRITING_TOKEN = "hf_writes"
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@contextmanager
def serve(repositories: Mapping[str, Path], created: Path | None = None) -> Iterator[str]:
    """Serves folders as repositories ("models/owner/name" or "datasets/owner/name"); its URL.

    With a folder `created`, repositories of data sets can be made there and committed to with the
    token WRITING_TOKEN, except those of "somebody-else"; `commits.jsonl` in it lists what arrived.
    Every branch holds the same files.
    """
    repositories = dict(repositories)
    stored: dict[str, bytes] = {}  # large files by sha256
    branches: set[str] = set()

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
            body = self._body()
            if created is not None and self._write(body):
                return
            match = API.fullmatch(unquote(urlparse(self.path).path))
            if match is None or f"{match[1]}/{match[2]}" not in repositories:
                self._missing("RepoNotFound")
                return
            text = body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            folder = repositories[f"{match[1]}/{match[2]}"]
            paths = [p for p in asked.get("paths", []) if (folder / p).exists()]
            self._json([_entry(folder, folder / p) for p in paths])

        def do_PUT(self) -> None:
            stored[self.path.rpartition("/")[2]] = self._body()
            self._json({})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _write(self, body: bytes) -> bool:
            """Answers a request of a client that commits; False where it is none."""
            path = unquote(urlparse(self.path).path)
            match = COMMITTING.fullmatch(path)
            large = LARGE_FILES.fullmatch(path)
            if path not in ("/api/repos/create", "/api/validate-yaml") and not match and not large:
                return False
            if self.headers.get("Authorization") != f"Bearer {WRITING_TOKEN}":
                self._send(b'{"error": "Invalid token"}', "application/json", 401)
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif large:
                self._accept_large(json.loads(body))
            elif match[2] == "preupload":
                self._json({"files": [_upload(f["path"]) for f in json.loads(body)["files"]]})
            elif match[2] == "branch":
                fresh = match[3] not in branches
                branches.add(match[3])
                self._send(b"{}", "application/json", 201 if fresh else 409)
            else:
                self._commit(match[1], match[3], [json.loads(x) for x in body.splitlines()])
            return True

        def _create(self, wanted: dict[str, str]) -> None:
            if wanted.get("organization") == "somebody-else":
                self._send(b'{"error": "Forbidden"}', "application/json", 403)
                return
            name = f"{wanted['organization']}/{wanted['name']}"
            key = f"{wanted['type']}s/{name}"
            exists = key in repositories
            if not exists:
                repositories[key] = created / key
                (created / key).mkdir(parents=True)
                (created / "visibility.json").write_text(json.dumps(wanted))
            url = f"http://{self.headers['Host']}/{key}"
            body = json.dumps({"url": url}).encode()
            self._send(body, "application/json", 409 if exists else 200)

        def _accept_large(self, asked: dict[str, list[dict[str, object]]]) -> None:
            base = f"http://{self.headers['Host']}/lfs"
            objects = [
                {**o, "actions": {"upload": {"href": f"{base}/{o['oid']}"}}}
                for o in asked["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})

        def _commit(self, name: str, revision: str, lines: list[dict[str, dict]]) -> None:
            folder = repositories[f"datasets/{name}"]
            files = []
            for line in lines[1:]:
                value = line["value"]
                content = (
                    base64.b64decode(value["content"])
                    if line["key"] == "file"
                    else stored[value["oid"]]
                )
                (folder / value["path"]).write_bytes(content)
                files.append(value["path"])
            row = {"repository": name, "revision": revision, "files": files}
            with (created / "commits.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            url = f"http://{self.headers['Host']}/datasets/{name}/commit/{COMMIT}"
            self._json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})

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


def _upload(path: str) -> dict[str, object]:
    mode = "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}
