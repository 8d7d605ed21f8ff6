"""SGD as PyTorch does it, and its learning rate as a pure function of the step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

Schedule = Callable[[jax.Array], jax.Array]


def learning_rate(optim: ConfigDict, batch_size: int, milestones: Sequence[int]) -> Schedule:
    """Linear warm-up, then the base rate, multiplied by `optim.decay` at each milestone.

    Args:
        optim: `config.optim`; `optim.lr` is meant for a global batch of `optim.lr_batch_size`.
        batch_size: images a step over all devices; the rate is scaled with it (Goyal et al., 2017).
        milestones: steps (already converted from epochs).

    Returns:
        The rate of the update that follows `step` finished ones.
    """
    peak = optim.lr * batch_size / optim.lr_batch_size

    def rate(step: jax.Array) -> jax.Array:
        progress = jnp.minimum(step / max(optim.warmup_steps, 1), 1.0)
        warmup = optim.warmup_ratio + (1.0 - optim.warmup_ratio) * progress
        decays = sum((step >= milestone).astype(jnp.float32) for milestone in milestones)
        return peak * jnp.where(step < optim.warmup_steps, warmup, 1.0) * optim.decay**decays

    return rate


def create_optimizer(optim: ConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Clipping of the whole gradient's norm, weight decay, momentum, in the order of PyTorch's SGD."""
    clip = optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm > 0 else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(optim.weight_decay),
        optax.sgd(schedule, momentum=optim.momentum),
    )
