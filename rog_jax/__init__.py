"""Long-tail object detection and instance segmentation in JAX."""

__version__ = "0.1.0"
