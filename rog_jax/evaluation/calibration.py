"""NorCal: classifier scores made up for the class frequencies after training (Pan et al., NeurIPS 2021)."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from rog_jax.losses.conventions import loss_dtype

VARIANTS = ("exps", "probs", "logits")
METHODS = ("gamma", "cb")


def norcal_scores(
    logits: Float[Array | np.ndarray, "B Q"],
    image_counts: Num[Array | np.ndarray, " C"],
    gamma: float | int | Num[Array | np.ndarray, ""],
    variant: str = "exps",
    renormalise: bool = True,
    method: str = "gamma",
) -> Float[Array, "B C"]:
    """Scores of a softmax classifier in which each foreground class counts 1 / n^gamma of what it did.

    The background's score is never divided, only normalised along. Nothing is trained; 0 is no calibration, and gamma
    may be traced, so that a sweep over it compiles once:
    `jax.jit(norcal_scores, static_argnames=("variant", "renormalise", "method"))`.

    Args:
        logits: raw, of Q = C + 1 columns, the background last; computed with in float32 unless float64.
        image_counts: training images that have each class, n; less than 1 counts as 1.
        gamma: how much is calibrated, for "gamma" from 0 to 1 as a rule, for "cb" from 0 to 1, which is 1 / n. The
            factors of a number are computed in float64, those of a traced gamma in the type of the scores; for "cb" in
            float32 that has digits only as far as 1 - gamma has: 1e-4 of the factor at 0.9999.
        variant: what the factor is applied to. "exps": exponentials of the foreground logits. "probs": the softmax's
            probabilities. "logits": the logits themselves.
        renormalise: whether what results is divided by its sum, background included; with that, "exps" and "probs" are
            the same. "logits" is always normalised. "exps" without it are no probabilities but raw exponentials, here
            cut off just below the largest finite number.
        method: "gamma", or "cb", the factor (1 - gamma) / (1 - gamma^n) of class-balanced loss.

    Returns:
        Scores of the foreground classes.

    Raises:
        ValueError: unknown variant or method, or not one column more than classes.
    """
    if variant not in VARIANTS:
        raise ValueError(f"NorCal knows the variants {', '.join(VARIANTS)}, not {variant!r}")
    if method not in METHODS:
        raise ValueError(f"NorCal knows the methods {', '.join(METHODS)}, not {method!r}")
    logits = jnp.asarray(logits)
    if logits.ndim != 2 or np.shape(image_counts) != (logits.shape[1] - 1,):
        raise ValueError(
            "NorCal takes logits [B, C + 1] with the background last and image_counts [C]; got "
            f"{logits.shape} and {np.shape(image_counts)}"
        )
    dtype = loss_dtype(logits)
    logits = logits.astype(dtype)
    if isinstance(gamma, jax.core.Tracer) or isinstance(image_counts, jax.core.Tracer):
        log_factor = _log_factor(jnp.asarray(image_counts, dtype), jnp.asarray(gamma, dtype), method, jnp)
    else:
        log_factor = _log_factor(np.asarray(image_counts, np.float64), np.asarray(gamma, np.float64), method, np)
        log_factor = jnp.asarray(log_factor, dtype)
    if variant == "logits":
        return jax.nn.softmax(_to_foreground(jnp.multiply, logits, jnp.exp(log_factor)), axis=1)[:, :-1]
    if renormalise:
        return jax.nn.softmax(_to_foreground(jnp.add, logits, log_factor), axis=1)[:, :-1]
    if variant == "probs":
        logits = jax.nn.log_softmax(logits, axis=1)
    most = float(np.log(np.finfo(dtype).max)) - 0.01  # cut before exp: after it, the gradient would be 0 * infinity
    return jnp.exp(jnp.minimum(logits[:, :-1] + log_factor, most))


def _to_foreground(function, logits: Float[Array, "B Q"], of_class: Float[Array, " C"]) -> Float[Array, "B Q"]:
    return jnp.concatenate([function(logits[:, :-1], of_class), logits[:, -1:]], axis=1)


def _log_factor(
    counts: Float[Array | np.ndarray, " C"], gamma: Float[Array | np.ndarray, ""], method: str, xp: ModuleType
) -> Float[Array | np.ndarray, " C"]:
    """log of the factor, so that no exponential of a logit need be taken before the largest is known.

    Args:
        counts: of each class.
        gamma: of the type of the counts.
        method: one of `METHODS`.
        xp: NumPy or its JAX twin, whose arrays these are.
    """
    log_counts = xp.log(xp.maximum(counts, 1))
    if method == "gamma":
        return -gamma * log_counts
    # (1 - g) / (1 - g^n) with both differences exact where g is nearly 1; its limit there is 1 / n, that at 0 is 1.
    between = (gamma > 0) & (gamma < 1)
    log_gamma = xp.log1p(xp.where(between, gamma, 0.5) - 1)
    factor = xp.expm1(log_gamma) / xp.expm1(xp.maximum(counts, 1) * log_gamma)
    return xp.where(between, xp.log(factor), xp.where(gamma > 0, -log_counts, 0 * log_counts))
