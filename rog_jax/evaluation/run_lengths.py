"""A column of masks as run-length codes, without a Python object a mask."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask


class RunLengths(NamedTuple):
    """Masks in COCO's compressed run-length code.

    Attributes:
        counts: M texts.
        sizes: int64 [M, 2], (height, width) of each mask's image in pixels.
    """

    counts: pa.LargeStringArray
    sizes: np.ndarray

    @classmethod
    def from_codes(cls, codes: Sequence[dict[str, Any]]) -> "RunLengths":
        """From records {"size": [height, width], "counts": text, or the run lengths as numbers}."""
        counts = pa.array([_compressed(code) for code in codes], pa.large_string())
        return cls(counts, np.array([code["size"] for code in codes], np.int64).reshape(-1, 2))

    @classmethod
    def concatenate(cls, parts: Sequence["RunLengths"]) -> "RunLengths":
        """The masks of all parts, one part after the other."""
        # One array, no chunks: taking a few places from chunks copies all of them.
        return cls(pa.concat_arrays([part.counts for part in parts]), np.concatenate([part.sizes for part in parts]))

    def take(self, rows: np.ndarray) -> "RunLengths":
        """The masks at places `rows`, in that order."""
        return RunLengths(self.counts.take(pa.array(rows, pa.int64())), self.sizes[rows])

    def codes(self) -> list[dict[str, Any]]:
        """As records {"size": [height, width], "counts": text}, which the evaluators read."""
        return [
            {"size": size, "counts": text}
            for size, text in zip(self.sizes.tolist(), self.counts.to_pylist(), strict=True)
        ]


def _compressed(code: dict[str, Any]) -> str:
    """The text of a code, made of its numbers where it has those."""
    if isinstance(code["counts"], str):
        return code["counts"]
    return coco_mask.frPyObjects(code, *code["size"])["counts"].decode("ascii")
