"""Long-tail object detection and instance segmentation in JAX."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """`rog_jax.Predictor`, imported when it is asked for: the data tools need no detector."""
    if name == "Predictor":
        from rog_jax.inference import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
