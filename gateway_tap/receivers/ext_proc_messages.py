"""What Envoy's external processing filter sends: the parts of `envoy.service.ext_proc.v3.ProcessingRequest` that a tap reads.

Compatible on the wire, under a package name of our own: Envoy's Python packages install modules under names that others use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, struct_pb2

from auditap_tap.capture import RawHeaders
from schemas.capture import TapPosition
from schemas.errors import RefusalReason, RefusedCapture

METADATA_NAMESPACE: Final = "auditap"
"""Where the settings in deploy/auditap_gateways/envoy put the number of a request."""
_PACKAGE: Final = "auditap.ext_proc"
_STRUCT: Final = ".google.protobuf.Struct"
_NUMBER_MAX: Final = 2**53 - 1
_Field = descriptor_pb2.FieldDescriptorProto
# Each field: its name, its number, its type, or the name of its message. Envoy's other fields are skipped unread.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, int | str], ...]]] = {
    "HeaderValue": (("key", 1, _Field.TYPE_BYTES), ("value", 2, _Field.TYPE_BYTES), ("raw", 3, _Field.TYPE_BYTES)),
    "HeaderMap": (("headers[]", 1, "HeaderValue"),),
    "HttpHeaders": (("headers", 1, "HeaderMap"), ("end_of_stream", 3, _Field.TYPE_BOOL)),
    "HttpBody": (("body", 1, _Field.TYPE_BYTES), ("end_of_stream", 2, _Field.TYPE_BOOL)),
    "HttpTrailers": (("trailers", 1, "HeaderMap"),),
    "Metadata": (("filter_metadata{}", 1, _STRUCT),),
    "ProcessingRequest": (
        ("request_headers", 2, "HttpHeaders"),
        ("response_headers", 3, "HttpHeaders"),
        ("request_body", 4, "HttpBody"),
        ("response_body", 5, "HttpBody"),
        ("request_trailers", 6, "HttpTrailers"),
        ("response_trailers", 7, "HttpTrailers"),
        ("metadata", 8, "Metadata"),
        ("attributes{}", 9, _STRUCT),
    ),
}  # fmt: skip


class Part(NamedTuple):
    """A part of a request or a response, in the order in which they pass. The repr shows nothing of it.

    `headers`: the lines of a head, pseudo-headers included; None in a part that is not a head. `body`: a piece of the body.
    `is_last`: nothing more of this side comes. `position`: Envoy's own number of the request. `attributes`: what Envoy knows of
    the request, in its first part.
    """

    is_response: bool
    headers: RawHeaders | None = None
    body: bytes = b""
    is_last: bool = False
    position: TapPosition | None = None
    attributes: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return "<part>"


def decode_part(data: bytes) -> Part:
    """Return the part in one message. Raises RefusedCapture, `malformed` or `invalid`."""
    received = _processing_request()()
    try:
        received.ParseFromString(data)
    except message.DecodeError:
        raise RefusedCapture(RefusalReason.MALFORMED) from None
    for is_response, side in ((False, "request"), (True, "response")):
        if received.HasField(f"{side}_body"):
            piece = getattr(received, f"{side}_body")
            return Part(is_response, body=piece.body, is_last=piece.end_of_stream)
        if received.HasField(f"{side}_headers"):
            head = getattr(received, f"{side}_headers")
            lines = [(line.key, line.raw or line.value) for line in head.headers.headers]
            return Part(
                is_response, lines, b"", head.end_of_stream, _position(received), _attributes(received)
            )
        if received.HasField(f"{side}_trailers"):
            return Part(is_response, is_last=True)
    raise RefusedCapture(RefusalReason.INVALID, "request: required")


def _position(received: Any) -> TapPosition | None:
    if METADATA_NAMESPACE not in received.metadata.filter_metadata:
        return None
    fields = received.metadata.filter_metadata[METADATA_NAMESPACE].fields
    epoch, seq = (fields[name].number_value if name in fields else 0.0 for name in ("epoch", "number"))
    if not (1 <= epoch <= _NUMBER_MAX and 1 <= seq <= _NUMBER_MAX):
        return None
    return TapPosition("envoy", int(epoch), int(seq))


def _attributes(received: Any) -> dict[str, str]:
    """Return the attributes that are texts, by name; the filter that sent them is the key of their map."""
    return {
        name: value.string_value
        for struct in received.attributes.values()
        for name, value in struct.fields.items()
    }


@cache
def _processing_request() -> type[Any]:
    """Return the class of the message."""
    file = descriptor_pb2.FileDescriptorProto(
        name="auditap/ext_proc.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[struct_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        descriptor = file.message_type.add(name=name)
        for field in fields:
            _add_field(descriptor, *field)
    # A pool of its own, so that its names cannot clash with those of other packages.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    found: type[Any] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.ProcessingRequest")
    )
    return found


def _add_field(descriptor: Any, written: str, number: int, kind: int | str) -> None:
    """Add a field. `name[]` is repeated, `name{}` a map from texts."""
    name = written.rstrip("[]{}")
    field = descriptor.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if isinstance(kind, int):
        field.type = kind
        return
    field.type = _Field.TYPE_MESSAGE
    field.type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"
    if name == written:
        return
    field.label = _Field.LABEL_REPEATED
    if written.endswith("{}"):
        # A map is a list of pairs on the wire, and named by this rule.
        entry = descriptor.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, _Field.TYPE_STRING)
        _add_field(entry, "value", 2, kind)
        field.type_name = f".{_PACKAGE}.{descriptor.name}.{entry.name}"
