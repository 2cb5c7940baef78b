"""The OpenAPI document as one HTML page that needs nothing from anywhere else: gateways often have no way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8886; padding: 0 0 1rem; }
h2 { font-size: 1.1rem; } code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
b { display: inline-block; min-width: 4rem; color: #2a7d4f; }
pre { overflow-x: auto; padding: 0.6rem; background: #8882; border-radius: 6px; }
table { border-collapse: collapse; } td { padding: 0.1rem 1rem 0.1rem 0; vertical-align: top; }
"""


def page(document: Json) -> str:
    """Every operation of an OpenAPI document with its body and answers, and the shapes they name."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{title}</h1><p>{escape(info.get('summary', ''))}</p>",
        '<p>For tools: <a href="/openapi.json">openapi.json</a></p>',
        *_operations(document),
        "<h1>Shapes</h1>",
        *_shapes(document),
        "</body></html>",
    ]
    return "\n".join(parts)


def _operations(document: Json) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<section><h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
            content = operation.get("requestBody", {}).get("content", {})
            yield from (f"<p>Body: {_link(kind, media)}</p>" for kind, media in content.items())
            yield "<table>"
            for status, answer in operation["responses"].items():
                kinds = ", ".join(_link(kind, media) for kind, media in answer.get("content", {}).items())
                yield f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{kinds}</td></tr>"
            yield "</table></section>"


def _link(kind: str, media: Json) -> str:
    name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f'{escape(kind)} <a href="#{escape(name)}">{escape(name)}</a>' if name else escape(kind)


def _shapes(document: Json) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2><pre>{text}</pre></section>'
