"""A batch in one array, which a worker process hands over in one block of shared memory and one short message.

A message of at most `select.PIPE_BUF` bytes is written at once. Of a longer one, a worker that is killed (by want of
memory, say) can leave the first half in its pipe, and the run would wait for the other half for ever.
"""

import math
from typing import NamedTuple

import numpy as np

from rog_jax.data.batch import Batch

_ALIGNMENT = 64
"""Bytes. XLA's CPU backend uses arrays that start at a multiple of it where they lie, without a copy."""

_SMALL_BYTES = 1 << 16


class BatchBlock(NamedTuple):
    """The fields of a batch, one after the other.

    Attributes:
        data: uint8 [N].
        layout: of each field its dtype and shape; None for a field that the batch lacks.
    """

    data: np.ndarray
    layout: tuple[tuple[str, tuple[int, ...]] | None, ...]


def stack(examples: list[Batch]) -> BatchBlock:
    """A batch of examples, whose fields have no batch axis yet, are alike in shape and are all None or none."""
    fields = list(zip(*examples, strict=True))
    firsts = (field[0] for field in fields)
    layout = tuple(None if x is None else (np.asarray(x).dtype.str, (len(examples), *np.shape(x))) for x in firsts)
    block = BatchBlock(np.empty(sum(map(_padded_bytes, layout)), np.uint8), layout)
    for field, view in zip(fields, _views(block), strict=True):
        if view is not None:
            np.stack(field, out=view)
    return block


def unpack(block: BatchBlock) -> Batch:
    """The batch, whose large arrays are views of the block; small ones, which some keep longer, are copies."""
    return Batch(*(x if x is None or x.nbytes > _SMALL_BYTES else x.copy() for x in _views(block)))


def _views(block: BatchBlock) -> Batch:
    start, fields = 0, []
    for entry in block.layout:
        fields.append(None if entry is None else np.ndarray(entry[1], entry[0], block.data, start))
        start += _padded_bytes(entry)
    return Batch(*fields)


def _padded_bytes(entry: tuple[str, tuple[int, ...]] | None) -> int:
    if entry is None:
        return 0
    dtype, shape = entry
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return -(-size // _ALIGNMENT) * _ALIGNMENT
