"""Equalization loss: objects of other classes are no negatives of rare ones (Tan et al., CVPR 2020)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Bool, Int

from rog_jax.losses.classification.rare_classes import RareClassLoss
from rog_jax.losses.conventions import is_foreground


@dataclass(frozen=True)
class EQL(RareClassLoss):
    """Sigmoid cross-entropy whose negatives of rare classes count on background rows only.

    The default threshold is that of the published LVIS v1 setting; 0.00177 is LVIS v0.5's.
    """

    def left_out(self, labels: Int[Array, " N"], axis_name: str | None, dtype: Any) -> Bool[Array, "N C"]:
        """Rare classes on the rows of objects."""
        return is_foreground(labels, self.num_classes)[:, None] & self.rare
