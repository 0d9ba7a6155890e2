"""Bodies of real documents written in the media types that these declare: JSON and forms."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlencode

from redactor.openapi.operations import Operation
from schemas.capture import Headers
from tests.canary.pairs import deep_fields
from tests.property.captures import JSON
from tests.property.documents import CANARY, Node
from tests.property.instances import marked_at_random

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
_BOUNDARY = "b-o-u-n-d-a-r-y"


# By their names, and whether they get marks at random.
DOCUMENTS = [
    ("cloudflare-auditable", False),
    ("cloudflare-2024", True),
    ("stripe-all-marked", False),
    ("stripe-all-marked", True),
]
DOCUMENT_IDS = [name + "-marked-at-random" * marks for name, marks in DOCUMENTS]


def read_root(folder: Path, name: str, *, marks_at_random: bool) -> Node:
    """Return a document's tree, with marks at random where that is asked for."""
    root: Node = json.loads((folder / f"{name}.openapi.json").read_bytes())
    if marks_at_random:
        marked_at_random(root, random.Random(7))
    return root


def base_of(operation: Operation) -> str:
    """Return the base path of an operation's first server."""
    return "".join("/" + segment.text for segment in operation.servers[0].base)


class Described(NamedTuple):
    """How a document describes a body: by its first media type that can be written here."""

    schema: Any
    media_type: str = JSON
    encoding: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, content: Node) -> Described | None:
        """Return what `content` describes; None where it describes no body that can be written here."""
        for media_type in (JSON, FORM, MULTIPART):
            media = content.get(media_type, {})
            if "schema" in media:
                return cls(media["schema"], media_type, media.get("encoding", {}))
        return None

    def message(self, body: Any, others: Headers) -> tuple[Headers, str]:
        """Return headers and text of a message with this body."""
        if self.media_type == JSON:
            return others | {"content-type": JSON}, json.dumps(body)
        # A form is an object in any case, and holds one field at least.
        fields = list(form_fields(body, self.encoding)) if isinstance(body, dict) else []
        fields = fields or [(CANARY, _text(body))]
        if self.media_type == FORM:
            return others | {"content-type": FORM}, urlencode(fields)
        parts = [_part(name, text) for name, text in fields]
        headers = others | {"content-type": f"{MULTIPART}; boundary={_BOUNDARY}"}
        return headers, "".join(parts) + f"--{_BOUNDARY}--\r\n"


def form_fields(body: Node, encoding: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a form that is this object."""
    for name, value in body.items():
        if encoding.get(name, {}).get("style") == "deepObject":
            yield from deep_fields(name, value)
        elif isinstance(value, list):
            yield from ((name, _text(each)) for each in value)
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _part(name: str, text: str) -> str:
    return f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
