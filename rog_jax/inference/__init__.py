"""A trained detector on pictures of one's own: NumPy in, NumPy out."""

from rog_jax.inference.predictions import Predictions
from rog_jax.inference.predictor import Predictor

__all__ = ["Predictions", "Predictor"]
