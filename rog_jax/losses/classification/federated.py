"""Federated loss: only some classes are negatives, since LVIS does not say of every image what is not in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from rog_jax.losses.classification.base import ClassificationLoss, State, class_statistic
from rog_jax.losses.classification.binary import binary_targets, sigmoid_cross_entropy, sum_over_rows
from rog_jax.losses.conventions import sum_over_devices

NEGATIVES = ("sampled", "verified")


@dataclass(frozen=True)
class Federated(ClassificationLoss):
    """Sigmoid cross-entropy of C columns, of which only some count; divided by the rows, whose weights are ignored.

    With `negatives="sampled"`, Detectron2's federated loss (Zhou, Koltun & Krähenbühl, "Probabilistic two-stage
    detection", 2021): the classes of the batch's rows and as many others, drawn without replacement with chances
    proportional to image_counts^frequency_power, as make `num_sample_cats` in all. As there, the background counts as
    one of these classes if the batch has a background row. With a mesh axis it is the joined batch's classes, and one
    draw for all devices. Detectron2's classifier has one more column, which the loss never sees; here it is left out.

    With `negatives="verified"`, what LVIS itself says (Gupta, Dollár & Girshick, CVPR 2019, section 3.1): in each image
    only the classes annotated there or verified to be absent (`neg_category_ids`) count, besides each row's own. That
    is how Madan et al. ("Revisiting few-shot object detection with vision-language models", 2024) mask their loss.

    Further inputs of the call:

        key: one random key, the same on all devices, or in its place uniform [C], draws from [0, 1). For "sampled".
        verified: [B, C] bool, classes that count in each image, where rows stand image by image; or [N, C], those of
            each row. For "verified".

    Attributes:
        image_counts: [C], training images with each class; needed for "sampled" alone.
        num_sample_cats: classes that count, if the batch has not more.
        frequency_power: exponent of the image counts.
        negatives: "sampled" or "verified".

    Raises:
        ValueError: image counts are missing, negative, or not C; an unknown kind of negatives.
    """

    image_counts: Sequence[float | int] | np.ndarray | Array | None = None
    num_sample_cats: int = 50
    frequency_power: float | int = 0.5
    negatives: str = "sampled"
    bias_init: ClassVar[float] = -float(np.log(99))
    data_options: ClassVar[tuple[str, ...]] = ("image_counts",)

    def __post_init__(self):
        if self.negatives not in NEGATIVES:
            raise ValueError(f"Federated knows the negatives {', '.join(NEGATIVES)}, not {self.negatives!r}")
        if self.negatives == "sampled" or self.image_counts is not None:
            meaning = "the number of training images with each class [C]"
            counts = class_statistic(self, "image_counts", meaning, (self.num_classes,))
            object.__setattr__(self, "image_counts", counts)

    @property
    def num_outputs(self) -> int:
        """Q = C: a background row has the target 0 in every column."""
        return self.num_classes

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """The draw's key, or the classes that count."""
        return ("key",) if self.negatives == "sampled" else ("verified",)

    def __call__(
        self,
        logits: Float[Array | np.ndarray, "N Q"],
        labels: Int[Array | np.ndarray, " N"],
        weights: Num[Array | np.ndarray, " N"] | None,
        state: State,
        axis_name: str | None = None,
        key: Any = None,
        uniform: Float[Array | np.ndarray, " C"] | None = None,
        verified: Bool[Array | np.ndarray, "_ C"] | None = None,
    ) -> tuple[Float[Array, ""], State]:
        """See `ClassificationLoss.__call__`.

        Raises:
            ValueError: the input that this kind of negatives needs is missing or does not fit.
        """
        logits, labels, valid = self.prepare(logits, labels, weights)
        if self.negatives == "sampled":
            counted = self.sample_classes(labels, axis_name, key, uniform)
        else:
            counted = self._of_rows(verified, len(labels))
        targets = binary_targets(labels, self.num_classes)
        entries = jnp.where(targets | counted, sigmoid_cross_entropy(logits, targets), 0)
        return sum_over_rows(entries, valid, axis_name), state

    def sample_classes(
        self,
        labels: Int[Array, " N"],
        axis_name: str | None = None,
        key: Any = None,
        uniform: Float[Array | np.ndarray, " C"] | None = None,
    ) -> Bool[Array, " C"]:
        """The classes that count for a batch with these labels."""
        if (key is None) == (uniform is None):
            raise ValueError("Federated draws classes: give one of key= and uniform= [C]")
        slots = jnp.where(labels < 0, self.num_classes + 1, labels)
        rows = jnp.zeros(self.num_classes + 1, jnp.int32).at[slots].add(1, mode="drop")  # [C + 1]
        present = sum_over_devices(rows, axis_name) > 0
        missing = self.num_sample_cats - jnp.sum(present)
        if uniform is None:
            uniform = jax.random.uniform(key, (self.num_classes,))
        elif np.shape(uniform) != (self.num_classes,):
            raise ValueError(f"uniform of Federated must be ({self.num_classes},), got {np.shape(uniform)}")
        # The largest of log(chance) + Gumbel noise are a draw without replacement (the Gumbel-top-k trick).
        tiny = jnp.finfo(jnp.float32).tiny
        noise = -jnp.log(-jnp.log(jnp.clip(jnp.asarray(uniform), tiny, 1 - 2.0**-24)))
        chance = np.asarray(self.image_counts) ** self.frequency_power
        possible = (chance > 0) & ~present[:-1]
        order = jnp.where(possible, np.log(np.where(chance > 0, chance, 1)).astype(noise.dtype) + noise, -jnp.inf)
        places = jnp.arange(self.num_classes, dtype=jnp.int32)
        place = jnp.zeros_like(places).at[jnp.argsort(-order)].set(places)
        return present[:-1] | (possible & (place < missing))

    def _of_rows(self, verified: Array | np.ndarray | None, rows: int) -> Bool[Array, "N C"]:
        if verified is None:
            raise ValueError(
                'Federated with negatives="verified" needs verified= [B, C] or [N, C]: the classes annotated in each '
                "image and its neg_category_ids"
            )
        images = len(verified)
        left_over = rows % images if images else rows
        if verified.ndim != 2 or verified.shape[1] != self.num_classes or left_over:
            raise ValueError(
                f"verified of Federated must be [B, {self.num_classes}] or [N, {self.num_classes}] with N = {rows} a "
                f"multiple of B, got {verified.shape}"
            )
        return jnp.repeat(jnp.asarray(verified), rows // max(images, 1), axis=0)

    def activation(self, logits: Float[Array, "N Q"]) -> Float[Array, "N C"]:
        """The sigmoid of each class."""
        return jax.nn.sigmoid(logits)
