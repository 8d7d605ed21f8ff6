"""The records of LVIS and COCO json files, checked as they are parsed, one at a time.

The file is split into its records first, which stay bytes; each is then decoded by itself. So an annotation file of a
gigabyte never becomes Python objects as a whole, and an error knows the number of its record.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from rog_jax.data.annotations import DataError

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Pixels = Annotated[float, Meta(ge=1, lt=2**31, multiple_of=1)]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NO_JSON = re.compile(rb"-?(NaN|Infinity)")


class Category(Struct, gc=False):
    """A category; `image_count` is what the file says of its training images."""

    id: Whole
    name: str | int | float | None = None
    frequency: Literal["r", "c", "f"] | None = None
    image_count: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class Image(Struct, gc=False):
    """An image; sizes in pixels."""

    id: Whole
    height: Pixels
    width: Pixels
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[Whole] | None = None
    not_exhaustive_category_ids: list[Whole] | None = None


class LabelledBox(Struct, gc=False):
    """An annotation without its segmentation; the box is (x, y, width, height) in pixels."""

    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: tuple[float, float, float, float]
    area: Annotated[float, Meta(ge=0)] | None = None
    iscrowd: int | bool | float | None = None


class RunLengths(Struct, gc=False):
    """COCO's run lengths of a mask of `size` (height, width): numbers, or their compressed text."""

    size: tuple[int, int]
    counts: list[int] | str


class Outline(Struct, gc=False):
    """An annotation's segmentation: polygons [x, y, x, y, ...] in pixels, run lengths, or none."""

    id: Whole
    segmentation: list[list[float]] | RunLengths | None = None


class Tables(Struct, gc=False):
    """The lists of an annotation file, their records still json."""

    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


Record = TypeVar("Record", Category, Image, LabelledBox, Outline)


def read_tables(path: Path) -> Tables:
    """Splits an annotation file into its records.

    Raises:
        DataError: no such file, no json, or none in LVIS or COCO format; the message says where it breaks.
    """
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}. Check config.data.train_json and config.data.val_json.")
    data = path.read_bytes()
    data = data[len(_BYTE_ORDER_MARK) :] if data.startswith(_BYTE_ORDER_MARK) else data
    try:
        tables = msgspec.json.decode(data, type=Tables)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path} is no annotation file in LVIS or COCO format, an object with the lists images, annotations and "
            f"categories: {error}."
        ) from error
    except _BROKEN as error:
        raise DataError(_broken_json(path, data, str(error))) from error
    for name in ("images", "categories"):
        if not getattr(tables, name):
            raise DataError(f"{path}: the list {name!r} is empty. Annotations need at least one of them.")
    return tables


def decode(path: Path, table: str, raws: Sequence[Raw], kind: type[Record]) -> Iterator[Record]:
    """Decodes records of a table one after the other.

    Raises:
        DataError: a field is missing or of another type; the message names the record, the field and its value.
    """
    decoder = msgspec.json.Decoder(kind)
    for place, raw in enumerate(raws):
        try:
            yield decoder.decode(raw)
        except _BROKEN as error:
            raise DataError(_bad_record(path, table, place, raw, str(error))) from error


def _bad_record(path: Path, table: str, place: int, raw: Raw, reason: str) -> str:
    try:
        record = msgspec.json.decode(raw)
    except _BROKEN:
        record = None
    number = record.get("id") if isinstance(record, dict) else None
    who = f"{path}: {_SINGULAR[table]} {number!r} ({table}[{place}])"
    reason, _, where = reason.partition(" - at `$.")
    field = re.match(r"\w+", where)
    if field is None or not isinstance(record, dict):
        return f"{who}: {reason}. Correct it."
    value = repr(record.get(field[0]))
    value = value if len(value) <= 60 else value[:57] + "..."
    where = where.rstrip("`")
    inside = "" if where == field[0] else f" at {where}"
    return f"{who}: {field[0]} is {value}: {reason}{inside}. Correct it."


def _broken_json(path: Path, data: bytes, reason: str) -> str:
    found = re.search(r"\(byte (\d+)\)", reason)
    byte = int(found[1]) if found else len(data)
    literal = _NO_JSON.match(data, max(byte - 1, 0)) or _NO_JSON.match(data, byte)
    if literal:
        return (
            f"{path}: {_enclosing_record(data, literal.start())} has {literal[0].decode()}, which is not finite and no "
            "json. Correct it."
        )
    if data[:2] in (b"\x1f\x8b", b"PK", b"BZ"):
        return f"{path} is no json text: it looks compressed. Unpack it first."
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return f"{path} is text in UTF-16, and json is UTF-8. Save it as UTF-8."
    line = data.count(b"\n", 0, byte) + 1
    column = byte - (data.rfind(b"\n", 0, byte) + 1) + 1
    return (
        f"{path} is no valid json: {reason} at line {line}, column {column}. The file has {len(data)} bytes; if that "
        "is too few, copy or download it again."
    )


def _enclosing_record(data: bytes, byte: int) -> str:
    """Names the record around a byte, by Python's own json parser, which reads NaN and Infinity."""
    window = data[max(0, byte - (1 << 16)) : byte + (1 << 16)].decode(errors="replace")
    inside = len(data[max(0, byte - (1 << 16)) : byte].decode(errors="replace"))
    decoder = json.JSONDecoder()
    start = window.rfind("{", 0, inside)
    while start >= 0:
        try:
            record, end = decoder.raw_decode(window, start)
        except (ValueError, RecursionError):
            end = -1
        if end > inside and "id" in record:
            return f"{_table_of(record)} {record['id']}"
        start = window.rfind("{", 0, start)
    return f"byte {byte}"


def _table_of(record: dict[str, Any]) -> str:
    if "image_id" in record:
        return "annotation"
    return "image" if "height" in record else "category"
