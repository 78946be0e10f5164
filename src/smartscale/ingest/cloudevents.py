"""CloudEvents 1.0 over HTTP: binary, structured and batched content mode.

What becomes of a CloudEvent (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md):

==============  ====================================================================================================
``source``      the service, unless the data names one
``type``        the name, unless the data has one
``time``        the event time (missing: the data's, else the time of receipt)
``id``          with the source before it the event's id, because it is unique only within its source
``data``        a JSON object that holds fields of a native event and nothing else: these fields.
                Any other JSON is kept in the attribute ``data``; what is not JSON is not kept
the rest        ``subject`` and extension attributes, and a source or type that is not the service or name, are kept
                as attributes
==============  ====================================================================================================
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from smartscale.ingest.translation import Translation
from smartscale.records.events_json import Decoded, EventIn, Limits, MalformedBody

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
HEADER_PREFIX: Final = "ce-"
"""Starts the name of a header that holds an attribute in binary mode."""

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_maybe_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_value = msgspec.json.Decoder().decode
_event = msgspec.json.Decoder(EventIn).decode
_encode = msgspec.json.Encoder().encode

Attributes = Mapping[str, object]


def is_binary(headers: Mapping[str, str]) -> bool:
    """Whether a request carries a CloudEvent in its headers (binary content mode)."""
    return "ce-specversion" in headers or "ce-id" in headers


def decode_binary(headers: Mapping[str, str], body: bytes, limits: Limits) -> Decoded:
    """The one event whose attributes are headers and whose data is the body."""
    translation = Translation()
    try:
        attributes: dict[str, object] = {
            name.removeprefix(HEADER_PREFIX): _header(name, value)
            for name, value in headers.items()
            if name.startswith(HEADER_PREFIX)
        }
        media_type = headers.get("content-type", "")
        _translate(attributes, _json_data(body, media_type) if body else None, translation)
    except _Wrong as wrong:
        translation.refuse(*wrong.args)
    return translation.checked(limits)


def decode_structured(body: bytes, limits: Limits) -> Decoded:
    """The one event that the body is. Raises ``MalformedBody``."""
    try:
        return _decode([_syntax(body)], limits)
    except _UNREADABLE as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None


def decode_batch(body: bytes, limits: Limits) -> Decoded:
    """Every event of a JSON array. Raises ``MalformedBody``."""
    try:
        return _decode(_array(body), limits)
    except _UNREADABLE as error:
        raise MalformedBody(f"the body is not a JSON array: {error}") from None


def _decode(elements: list[msgspec.Raw], limits: Limits) -> Decoded:
    translation = Translation()
    for element in elements:
        try:
            fields = _fields(element)
            data = fields.pop("data", None) or _base64_data(fields)
            _translate(_plain(fields), data, translation)
        except _Wrong as wrong:
            translation.refuse(*wrong.args)
    return translation.checked(limits)


class _Wrong(Exception):
    """Code and reason of a refusal."""


def _fields(element: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return _object(element)
    except _UNREADABLE as error:
        raise _Wrong("not-an-object", f"a CloudEvent must be a JSON object ({error})") from None


def _plain(fields: Mapping[str, msgspec.Raw]) -> Attributes:
    try:
        return {name: _value(raw) for name, raw in fields.items()}
    except _UNREADABLE as error:
        raise _Wrong("malformed", f"not valid JSON: {error}") from None


def _header(name: str, value: str) -> str:
    """An attribute's value from its header (HTTP protocol binding 1.0.2, section 3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise _Wrong("malformed", f"header {name}: its percent-encoding is not UTF-8") from None


def _is_json(media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip().lower()
    return essence in ("", "application/json", "text/json") or essence.endswith("+json")


def _json_data(data: bytes, media_type: str) -> msgspec.Raw | None:
    """Data that is stated to be JSON, as it is; None if it is something else."""
    if not _is_json(media_type):
        return None
    try:
        return _syntax(data)
    except _UNREADABLE as error:
        raise _Wrong("invalid-data", f"the data is not valid JSON: {error}") from None


def _base64_data(fields: dict[str, msgspec.Raw]) -> msgspec.Raw | None:
    """Data that came as ``data_base64``, which is taken out of the fields."""
    raw = fields.pop("data_base64", None)
    if raw is None:
        return None
    try:
        data = base64.b64decode(_value(raw), validate=True)
        media_type = _value(fields.get("datacontenttype", b'""'))
    except (*_UNREADABLE, TypeError, ValueError, binascii.Error):
        raise _Wrong("invalid-data", "`data_base64` must be text in base64") from None
    return _json_data(data, str(media_type))


_REQUIRED: Final = ("specversion", "id", "source", "type")
_SPACE: Final = re.compile(r"\s")
_NOT_KEPT: Final = frozenset({*_REQUIRED, "time", "datacontenttype", "dataschema"})


def _translate(attributes: Attributes, data: msgspec.Raw | None, translation: Translation) -> None:
    """Add the event that a CloudEvent is. Raises ``_Wrong``."""
    for name in _REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise _Wrong(f"invalid-{name}", f"`{name}` is required and must be text that is not empty")
    if attributes["specversion"] != "1.0":
        raise _Wrong(
            "invalid-specversion", f'`specversion` must be "1.0", not {attributes["specversion"]!r:.20}'
        )
    source, type_ = str(attributes["source"]), str(attributes["type"])
    if _SPACE.search(source):
        raise _Wrong(
            "invalid-source", f"`source` must be a URI reference, which has no white space: {source!r:.200}"
        )
    own = _own(data)
    event: dict[str, object] = {
        "service": source,
        "name": type_,
        **(own or {}),
        "id": f"{source} {attributes['id']}",
    }
    if "time" in attributes:
        event["time"] = attributes["time"]
    kept = {name: value for name, value in attributes.items() if name not in _NOT_KEPT}
    if own is None:
        kept |= {} if data is None else {"data": data}
    else:
        kept |= {"source": source} if "service" in own else {}
        kept |= {"type": type_} if "name" in own else {}
        kept |= _maybe_object(own.get("attributes", b"null")) or {}
    if kept:
        event["attributes"] = kept
    translation.add(msgspec.Raw(_encode(event)))


def _own(data: msgspec.Raw | None) -> dict[str, msgspec.Raw] | None:
    """The fields of a native event that the data is; None if it is something else.

    Somebody else's data may well have a field of one of these names. So it is ours only if every field is, with a
    value of its kind."""
    try:
        fields = _object(data or b"null")
        _event(_encode({"service": "any", **fields}))
        _maybe_object(fields.get("attributes", b"null"))
    except _UNREADABLE:
        return None
    return fields
