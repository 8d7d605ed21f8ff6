"""DropLoss: background is a negative of rare classes now and then only (Hsieh et al., AAAI 2021), and GOL on top."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from rog_jax.losses.classification.gumbel import BIAS_INIT, WEIGHT_INIT, gumbel_cross_entropy, gumbel_probability
from rog_jax.losses.classification.rare_classes import RareClassLoss
from rog_jax.losses.conventions import is_foreground, sum_over_devices


@dataclass(frozen=True)
class DropLoss(RareClassLoss):
    """Sigmoid cross-entropy without negatives of rare classes on the rows of objects and, at random, on background.

    On a background row a rare class is a negative with probability rho, the share of rare classes among the rows of
    objects of this batch; of a batch without objects nothing is left out on background rows. With a
    mesh axis rho is the joined batch's.

    Of the inputs `uniform`, `image_keys` and `key` the call takes exactly one:

        uniform: [N, C] draws from [0, 1).
        image_keys: [B] random keys, one an image; rows stand image by image. What is drawn for an image does not depend
            on the device that it is on.
        key: one random key, the same on all devices, which draw differently.
    """

    weight_init: ClassVar[tuple[str, float]] = WEIGHT_INIT
    bias_init: ClassVar[float] = -6.5

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """The draws' keys."""
        return ("image_keys",)

    def left_out(
        self,
        labels: Int[Array, " N"],
        axis_name: str | None,
        dtype: Any,
        key: Any = None,
        image_keys: Any = None,
        uniform: Float[Array | np.ndarray, "_ _"] | None = None,
    ) -> Bool[Array, "N C"]:
        """Rare classes on the rows of objects, and where the draw exceeds rho on background.

        Raises:
            ValueError: no source of randomness or several, or one that does not fit the rows.
        """
        if sum(source is not None for source in (key, image_keys, uniform)) != 1:
            raise ValueError(
                f"{type(self).__name__} drops negatives at random: give one of image_keys= [B], key= and "
                "uniform= [N, C]"
            )
        shape = (len(labels), self.num_classes)
        if uniform is None:
            uniform = _draws(key, image_keys, shape, axis_name)
        elif np.shape(uniform) != shape:
            raise ValueError(f"uniform of {type(self).__name__} must be {shape}, got {np.shape(uniform)}")
        uniform = jnp.asarray(uniform)
        foreground = is_foreground(labels, self.num_classes)
        of_rare_class = foreground & jnp.asarray(self.rare)[jnp.clip(labels, 0, self.num_classes - 1)]
        objects, rare_objects = sum_over_devices((jnp.sum(foreground), jnp.sum(of_rare_class)), axis_name)
        rho = rare_objects.astype(dtype) / jnp.maximum(objects, 1).astype(dtype)
        return self.rare & (foreground[:, None] | ((uniform > rho) & (objects > 0)))


@dataclass(frozen=True)
class GOL(DropLoss):
    """Gumbel optimised loss: DropLoss with the Gumbel activation (Alexandridis et al., ECCV 2022)."""

    bias_init: ClassVar[float] = BIAS_INIT
    cross_entropy: ClassVar = staticmethod(gumbel_cross_entropy)
    probability: ClassVar = staticmethod(gumbel_probability)


def _draws(key: Any, image_keys: Any, shape: tuple[int, int], axis_name: str | None) -> Float[Array, "N C"]:
    rows, columns = shape
    if image_keys is None:
        own = key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        return _uniform(own, rows, columns)
    images = len(image_keys)
    if not rows:
        return jnp.zeros(shape)
    if images == 0 or rows % images:
        raise ValueError(f"{rows} rows are not the same number for each of {images} image_keys")
    return jax.vmap(lambda one: _uniform(one, rows // images, columns))(image_keys).reshape(shape)


def _uniform(key: Any, rows: int, columns: int) -> Float[Array, "N C"]:
    """Draws from [0, 1), each a hash of one random word a row plus one a column, since a word each takes longer than
    the loss.

    The hash (the finaliser of MurmurHash3) is a permutation of the words, so that each draw is uniform and any two are
    independent; that the four of two rows and two columns are not, it hides.
    """
    of_rows, of_columns = jax.random.split(key)
    words = jax.random.bits(of_rows, (rows, 1), jnp.uint32) + jax.random.bits(of_columns, (columns,), jnp.uint32)
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return _fraction(words ^ (words >> 16))


def _fraction(words: UInt[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The first 24 bits as a number in [0, 1), all that float32 holds without rounding up to 1."""
    return (words >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
