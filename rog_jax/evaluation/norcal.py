"""NorCal at inference: from a config to a function of logits and gamma."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rog_jax.evaluation.calibration import norcal_scores
from rog_jax.losses.classification import ClassificationLoss
from rog_jax.models.detector import ScoreFunction

GammaScores = Callable[[Float[Array, "N Q"], float | int | Float[Array, ""]], Float[Array, "N C"]]
"""Raw outputs of the classifier and gamma to foreground scores."""


def gamma_scores(loss: ClassificationLoss, image_counts: Int[np.ndarray, " C"], settings: Any) -> GammaScores:
    """NorCal's scores of a trained classifier; the loss's own where gamma is 0.

    Args:
        loss: that the classifier was trained with.
        image_counts: training images of each category.
        settings: config.test.norcal.

    Raises:
        ValueError: the loss's scores are no softmax with one column for the background, which NorCal calibrates.
    """
    _check_softmax(loss)

    def scores(logits: Float[Array, "N Q"], gamma: float | int | Float[Array, ""]) -> Float[Array, "N C"]:
        calibrated = norcal_scores(logits, image_counts, gamma, settings.variant, settings.renormalise)
        return jnp.where(gamma == 0, loss.scores(logits), calibrated)

    return scores


def score_function(
    loss: ClassificationLoss, image_counts: Int[np.ndarray, " C"] | None, settings: Any
) -> ScoreFunction | None:
    """What the config's own gamma makes of the scores, None for the loss's own.

    Args:
        loss: as for `gamma_scores`.
        image_counts: as for `gamma_scores`; looked at only where gamma is not 0.
        settings: config.test.norcal.

    Raises:
        ValueError: as `gamma_scores`.
    """
    if not settings.gamma:
        return None
    scores = gamma_scores(loss, image_counts, settings)
    return lambda logits: scores(logits, settings.gamma)


def _check_softmax(loss: ClassificationLoss) -> None:
    logits = np.random.default_rng(0).normal(size=(2, loss.num_outputs)).astype(np.float32)
    is_softmax = loss.num_outputs == loss.num_classes + 1 and np.allclose(
        loss.scores(jnp.asarray(logits)), jax.nn.softmax(logits, axis=1)[:, :-1], atol=1e-5
    )
    if not is_softmax:
        raise ValueError(
            f"NorCal calibrates softmax scores with a background column, and those of {type(loss).__name__} are none: "
            "set config.test.norcal.gamma=0, or train with config.loss.classification=softmax_ce."
        )
