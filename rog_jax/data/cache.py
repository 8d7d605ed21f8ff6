"""Parsed annotations kept beside their source, so that the next start reads arrays instead of text.

The kept file serves two ends: a start within seconds, and worker processes that map it instead of holding a copy each.
"""

import hashlib
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rog_jax.data.packed import PackedError, PackedFile, write_packed

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever a reader makes something else of the same file."""
MIN_SOURCE_BYTES = 16 << 20
"""Smaller sources are parsed anew each time: that takes no second, and workers may well hold copies."""
SUFFIX = ".packed"


class Contents(NamedTuple):
    """What a reader makes of its files: arrays and lists of text by name, and the file that holds them, if any."""

    arrays: Mapping[str, np.ndarray]
    texts: Mapping[str, list[str]]
    packed: PackedFile | None = None


def cached(sources: Sequence[Path], reader: str, parse: Callable[[], Contents]) -> Contents:
    """The contents of `sources`: from the file kept of an earlier start where that still fits, else parsed and kept.

    It fits if every source has the size and the time of change that it had, and the reader's version is the same. A
    damaged file is replaced. The file lies beside the first source, or where that folder cannot be written to under
    the user's cache folder (XDG_CACHE_HOME, ~/.cache), or else in a temporary folder for as long as the process lives.

    Args:
        sources: existing files.
        reader: its name and options.
        parse: reads the sources.
    """
    if sum(source.stat().st_size for source in sources) < MIN_SOURCE_BYTES:
        return parse()
    key = cache_key(sources, reader)
    places = cache_places(sources, reader)
    for place in places:
        packed = _open(place, key)
        if packed is not None:
            logger.info("annotations come from %s", place)
            return Contents(packed.arrays, packed.texts, packed)
    contents = parse()
    for place in _with_temporary(places):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_packed(place, key, contents.arrays, contents.texts)
            packed = PackedFile(place, key, verify=True)
        except (OSError, PackedError) as error:
            # As text: who keeps the record would keep the error, with it this frame, and so the file open.
            logger.info("%s cannot keep the parsed annotations: %s", place, str(error))
            if place not in places:
                _remove(place)
            continue
        if place not in places:
            weakref.finalize(packed, _remove, place)
        return Contents(packed.arrays, packed.texts, packed)
    logger.warning("no folder can be written to: every loader process will hold a copy of the annotations")
    return contents


def cache_key(sources: Sequence[Path], reader: str) -> dict[str, Any]:
    """What a kept file must have been made of to be used."""
    stats = [source.stat() for source in sources]
    return {"version": VERSION, "reader": reader, "sources": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}


def cache_places(sources: Sequence[Path], reader: str) -> list[Path]:
    """Where a kept file may lie, the best place first."""
    identity = "\n".join([reader, *(str(source.resolve()) for source in sources)])
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    beside = sources[0].with_name(f"{sources[0].name}.{name[:8]}{SUFFIX}")
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return [beside, Path(base) / "rog_jax" / f"{name}{SUFFIX}"]


def _open(place: Path, key: Mapping[str, Any]) -> PackedFile | None:
    try:
        return PackedFile(place, key, verify=True)
    except FileNotFoundError:
        return None
    except (OSError, PackedError, ValueError, KeyError, TypeError) as error:
        logger.info("%s is not used: %s", place, error)
        return None


def _with_temporary(places: Sequence[Path]) -> Iterator[Path]:
    yield from places
    yield Path(tempfile.mkdtemp(prefix="rog_jax.")) / f"annotations{SUFFIX}"


def _remove(place: Path) -> None:
    place.unlink(missing_ok=True)
    place.parent.rmdir()
