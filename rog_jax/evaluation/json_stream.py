"""A json list of records, read in pieces: one by one, or in blocks that a columnar parser takes."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from io import BufferedIOBase, TextIOBase
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

_BLOCK = 1 << 22  # characters or bytes read at once
_LONGEST_RECORD = 1 << 26  # characters; without a bound, one syntax error would draw the whole file into memory
_SPACE = re.compile(r"\s*")
_BETWEEN_RECORDS = re.compile(rb"\}\s*,\s*\{")
_BOUNDARY_WINDOW = 1 << 16  # bytes at the end of a block that are searched first
_DECODER = json.JSONDecoder()
_UNREADABLE = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)  # what reading a damaged file raises


class NotRegular(Exception):
    """The text is no plain list of objects that can be cut at the commas between them; it may still be good json."""


class RecordBlock(NamedTuple):
    """Records that follow each other in a file.

    Attributes:
        lines: the json objects, each on lines of its own, with nothing between them.
        records: their number.
    """

    lines: bytes
    records: int


def iter_records(path: str | Path) -> Iterator[Any]:
    """The elements of a json list, one by one, holding no more than a block of the file (.json or .json.gz).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a json list, or is broken or cut off; the message names the element.
    """
    with _open(path, "rt") as file:
        yield from _Elements(file, Path(path))


def iter_blocks(path: str | Path) -> Iterator[RecordBlock]:
    """The elements of a json list of objects, in blocks whose text is cut and not parsed.

    A parser of the blocks has to find as many objects in each as `records` says: text that looks like the boundary of
    two records, inside a string or a nested list, makes it fail or find another number.

    Raises:
        FileNotFoundError: there is no such file.
        NotRegular: the text is something else, or cut off.
    """
    with _open(path, "rb") as file:
        try:
            yield from _blocks(file)
        except _UNREADABLE as error:
            raise NotRegular from error


def _open(path: str | Path, mode: str) -> IO:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no results file {path}: check the path, or run the inference first.")
    encoding = "utf-8" if mode == "rt" else None
    return gzip.open(path, mode, encoding=encoding) if path.suffix == ".gz" else open(path, mode, encoding=encoding)


def _blocks(file: BufferedIOBase) -> Iterator[RecordBlock]:
    text = file.read(_BLOCK).lstrip()
    if text[:1] != b"[":
        raise NotRegular
    text = text[1:]
    while block := file.read(_BLOCK):
        text += block
        boundary = _last_boundary(text)
        if boundary is not None:
            yield _block(text[: boundary.start() + 1])
            text = text[boundary.end() - 1 :]
        elif len(text) > _LONGEST_RECORD:
            raise NotRegular
    text = text.strip()
    if text[-1:] != b"]":
        raise NotRegular
    if text := text[:-1].rstrip():
        yield _block(text)


def _last_boundary(text: bytes) -> re.Match[bytes] | None:
    for window in (_BOUNDARY_WINDOW, len(text)):
        *_, last = None, *_BETWEEN_RECORDS.finditer(text, max(len(text) - window, 0))
        if last is not None:
            return last
    return None


def _block(text: bytes) -> RecordBlock:
    lines, boundaries = _BETWEEN_RECORDS.subn(b"}\n{", text)
    return RecordBlock(lines, boundaries + 1)


class _Elements:
    """A cursor over the elements of a json list in an open file."""

    def __init__(self, file: TextIOBase, path: Path):
        self.file, self.path = file, path
        self.text, self.position = "", 0

    def __iter__(self) -> Iterator[Any]:
        if self._peek() != "[":
            raise ValueError(f"{self.path} is no results file: it must hold a json list of records.")
        self.position += 1
        if self._peek() == "]":
            return self._end()
        for index in count():
            yield self._element(index)
            separator = self._peek()
            if separator == "]":
                return self._end()
            if separator != ",":
                found = repr(separator) if separator else "the end of the file"
                raise self._broken(index, f"a comma or a closing bracket should follow it, not {found}")
            self.position += 1

    def _end(self) -> None:
        self.position += 1
        if self._peek():
            raise ValueError(f"{self.path}: text follows the list of records. Write one list alone into the file.")

    def _peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read():
                return ""

    def _element(self, index: int) -> Any:
        self._peek()
        while True:
            try:
                element, self.position = _DECODER.raw_decode(self.text, self.position)
                return element
            except json.JSONDecodeError as error:
                if len(self.text) - self.position > _LONGEST_RECORD or not self._read():
                    raise self._broken(index, error.msg) from error

    def _read(self) -> bool:
        try:
            block = self.file.read(_BLOCK)
        except _UNREADABLE as error:
            raise ValueError(f"{self.path} is damaged or cut off ({error}). Write or copy it again.") from error
        self.text, self.position = self.text[self.position :] + block, 0
        return bool(block)

    def _broken(self, index: int, reason: str) -> ValueError:
        return ValueError(
            f"{self.path}: record {index} is broken or the file is cut off ({reason}). Write the file again."
        )
