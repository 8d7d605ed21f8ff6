"""Checkpoints of torchvision, MMDetection and Detectron2 as parameters of `rog_jax.models.detector.Detector`."""

from rog_jax.weights.archive import Weights, WeightsError, read_weights
from rog_jax.weights.conversion import Conversion, convert, family_of, from_detectron2, from_mmdet, from_torchvision

__all__ = [
    "Conversion",
    "Weights",
    "WeightsError",
    "convert",
    "family_of",
    "from_detectron2",
    "from_mmdet",
    "from_torchvision",
    "read_weights",
]
