"""A state dict whose tensors are taken one by one, each checked, used once, or dropped with a reason."""

from collections.abc import Mapping, Sequence

import numpy as np

from rog_jax.weights.archive import WeightsError

Tree = dict
NORM_EPSILON = 1e-5


class Tensors:
    """The tensors of a checkpoint in PyTorch's layout, (outputs, inputs, height, width).

    Args:
        state: tensors by name.
        family: of the checkpoint, for error messages.
    """

    def __init__(self, state: Mapping[str, np.ndarray], family: str):
        self._state = dict(state)
        self._family = family
        self.used: list[str] = []
        self.dropped: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that has to be there."""
        return self._get(name).shape

    def take(self, name: str, shape: Sequence[int] | None = None) -> np.ndarray:
        """The tensor as float32, which from now on counts as used.

        Raises:
            WeightsError: it is missing, of another shape than given, or was taken before.
        """
        tensor = self._get(name)
        if shape is not None and tensor.shape != tuple(shape):
            raise WeightsError(f"{name} has the shape {list(tensor.shape)}, expected {list(shape)}")
        if name in self.used:
            raise WeightsError(f"{name} would be used twice")
        self.used.append(name)
        return np.asarray(tensor, np.float32)

    def drop(self, names: Sequence[str], reason: str) -> None:
        """Leaves tensors out; those that are not there are no matter."""
        self.dropped |= {name: reason for name in names if name in self._state and name not in self.used}

    def drop_part(self, name: str, part: str, reason: str) -> None:
        """Notes that a part of a tensor that is used was left out."""
        self.dropped[f"{name}[{part}]"] = reason

    def finish(self) -> None:
        """Raises WeightsError where a tensor was neither used nor dropped: the model is another one than it seems."""
        left = [name for name in self._state if name not in self.used and name not in self.dropped]
        if left:
            others = f" and {len(left) - 1} more tensors have" if len(left) > 1 else " has"
            raise WeightsError(
                f"{left[0]}{others} no place in a ResNet, Faster R-CNN or Mask R-CNN with FPN of {self._family}: this "
                "checkpoint is of another architecture (docs/weights.md lists those that are read)"
            )

    def conv(self, name: str, shape: Sequence[int] | None = None) -> Tree:
        """A convolution with bias; shape as PyTorch has it."""
        kernel = self.take(f"{name}.weight", shape)
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": self.take(f"{name}.bias", kernel.shape[:1])}

    def conv_norm(self, conv: str, norm: str, shape: Sequence[int]) -> Tree:
        """A convolution and its batch norm; a bias of the convolution moves into the stored mean.

        Norms without statistics are affine maps (Caffe's, with the statistics folded in): mean 0, and a variance that
        makes one together with epsilon, as Detectron2 reads them.
        """
        channels = shape[:1]
        kernel = self.take(f"{conv}.weight", shape).transpose(2, 3, 1, 0)
        scale, bias = (self.take(f"{norm}.{leaf}", channels) for leaf in ("weight", "bias"))
        mean, var = np.zeros(channels, np.float32), np.full(channels, 1 - NORM_EPSILON, np.float32)
        if f"{norm}.running_mean" in self or f"{norm}.running_var" in self:
            mean, var = (self.take(f"{norm}.{leaf}", channels) for leaf in ("running_mean", "running_var"))
        if f"{conv}.bias" in self:
            mean = mean - self.take(f"{conv}.bias", channels)
        self.drop([f"{norm}.num_batches_tracked"], "a counter of training")
        return {"conv": {"kernel": kernel}, "norm": {"scale": scale, "bias": bias, "mean": mean, "var": var}}

    def linear(self, name: str, shape: Sequence[int] | None = None) -> Tree:
        """A linear layer with bias; shape (outputs, inputs)."""
        weight = self.take(f"{name}.weight", shape)
        return {"kernel": weight.T, "bias": self.take(f"{name}.bias", weight.shape[:1])}

    def _get(self, name: str) -> np.ndarray:
        if name not in self._state:
            raise WeightsError(f"{name} is missing; a checkpoint of {self._family} has it")
        return self._state[name]
