"""Feature pyramids, RPNs, box and mask heads of other projects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rog_jax.weights.archive import WeightsError
from rog_jax.weights.conventions import Settings
from rog_jax.weights.names import HeadNames
from rog_jax.weights.tensors import Tensors

BOX_CELLS = 7
ANCHORS = 3


class Classes(NamedTuple):
    """Which classes of a checkpoint's heads are wanted.

    Attributes:
        background_first: the project's column 0 is the background; else it is the last.
        number: heads of another number of foreground classes are dropped; None takes any.
        kept: foreground classes to keep, in this order; None keeps all.
    """

    background_first: bool
    number: int | None = None
    kept: Sequence[int] | None = None

    def columns(self, count: int) -> np.ndarray:
        """Of a classifier with `count` foreground classes: those kept, then the background."""
        background = 0 if self.background_first else count
        return np.append(self.foreground(count), background)

    def foreground(self, count: int) -> np.ndarray:
        """Columns of the foreground classes kept.

        Raises:
            WeightsError: there is no such class.
        """
        kept = np.arange(count) if self.kept is None else np.asarray(self.kept, np.int64)
        if len(kept) and (kept.min() < 0 or kept.max() >= count):
            raise WeightsError(f"the heads have the classes 0 to {count - 1}, asked for was {kept.max()}")
        return kept + int(self.background_first)


def detector_heads(
    tensors: Tensors, where: HeadNames, backbone: dict[str, Any], classes: Classes
) -> tuple[dict[str, Any], Settings]:
    """Parameters of everything beyond the backbone, and what their shapes say of the settings.

    Heads whose number of classes is not the wanted one are left out; the rest is kept.
    """
    pyramid, channels = _pyramid(tensors, where, backbone)
    box_head, hidden, count, box_settings = _box_head(tensors, where, channels, classes)
    mask_head, mask_settings = _mask_head(tensors, where, channels, classes, count)
    parameters = {"fpn": pyramid, "rpn": _rpn(tensors, where, channels), "box_head": box_head}
    if mask_head:
        parameters["mask_head"] = mask_head
    model = {"fpn_channels": channels, "masks": bool(mask_head)}
    if "classifier" in box_head:
        model["num_classes"] = len(classes.foreground(count))
    return parameters, {"model": model, "roi": {"hidden": hidden, **box_settings, **mask_settings}}


def _pyramid(tensors: Tensors, where: HeadNames, backbone: dict[str, Any]) -> tuple[dict[str, Any], int]:
    channels = tensors.shape(f"{where.lateral.format(where.first_level)}.weight")[0]
    laterals, outputs = {}, {}
    for level, blocks in backbone["stages"].items():
        last = max(name for name in blocks[0] if name.startswith("conv"))
        inputs = blocks[0][last]["conv"]["kernel"].shape[-1]
        number = where.first_level + level
        laterals[level] = {"conv": tensors.conv(where.lateral.format(number), (channels, inputs, 1, 1))}
        outputs[level] = {"conv": tensors.conv(where.output.format(number), (channels, channels, 3, 3))}
    return {"laterals": laterals, "outputs": outputs}, channels


def _rpn(tensors: Tensors, where: HeadNames, channels: int) -> dict[str, Any]:
    return {
        "conv": tensors.conv(where.rpn_conv, (channels, channels, 3, 3)),
        "objectness": tensors.conv(where.objectness, (ANCHORS, channels, 1, 1)),
        "deltas": tensors.conv(where.rpn_deltas, (4 * ANCHORS, channels, 1, 1)),
    }


def _box_head(
    tensors: Tensors, where: HeadNames, channels: int, classes: Classes
) -> tuple[dict[str, Any], int, int, dict[str, Any]]:
    hidden = tensors.shape(f"{where.fc1}.weight")[0]
    fc1 = tensors.linear(where.fc1, (hidden, channels * BOX_CELLS**2))
    # Theirs flatten (channel, y, x), ours (y, x, channel).
    kernel = fc1["kernel"].reshape(channels, BOX_CELLS, BOX_CELLS, hidden).transpose(1, 2, 0, 3)
    head = {
        "fc1": {"kernel": kernel.reshape(-1, hidden), "bias": fc1["bias"]},
        "fc2": tensors.linear(where.fc2, (hidden, hidden)),
    }
    count = tensors.shape(f"{where.classifier}.weight")[0] - 1
    rows = tensors.shape(f"{where.deltas}.weight")[0]
    agnostic = rows == 4 and count > 1
    if _dropped(tensors, (where.classifier,), count, classes):
        if not agnostic:
            _dropped(tensors, (where.deltas,), count, classes)
            return head, hidden, count, {"class_agnostic_boxes": False}
    else:
        classifier = tensors.linear(where.classifier, (count + 1, hidden))
        head["classifier"] = _columns(classifier, classes.columns(count))
    head["deltas"] = _deltas(tensors, where.deltas, hidden, count, classes, agnostic)
    return head, hidden, count, {"class_agnostic_boxes": agnostic}


def _deltas(
    tensors: Tensors, name: str, hidden: int, count: int, classes: Classes, agnostic: bool
) -> dict[str, np.ndarray]:
    if agnostic:
        return tensors.linear(name, (4, hidden))
    sets = count + int(classes.background_first)
    deltas = tensors.linear(name, (4 * sets, hidden))
    if classes.background_first:
        tensors.drop_part(name, "background", "boxes of the background are never used")
    columns = 4 * classes.foreground(count)[:, None] + np.arange(4)
    return _columns(deltas, columns.reshape(-1))


def _mask_head(
    tensors: Tensors, where: HeadNames, channels: int, classes: Classes, count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    predictor = f"{where.mask_predictor}.weight"
    if predictor not in tensors:
        return {}, {}
    convs: dict[int, Any] = {}
    inputs = channels
    while f"{where.mask_conv.format(where.first_mask_conv + len(convs))}.weight" in tensors:
        name = where.mask_conv.format(where.first_mask_conv + len(convs))
        outputs = tensors.shape(f"{name}.weight")[0]
        convs[len(convs)] = {"conv": tensors.conv(name, (outputs, inputs, 3, 3))}
        inputs = outputs
    kernel = tensors.take(f"{where.deconv}.weight", (inputs, inputs, 2, 2))
    bias = tensors.take(f"{where.deconv}.bias", (inputs,))
    head = {"convs": convs, "deconv": {"kernel": kernel.transpose(0, 2, 3, 1), "bias": bias}}
    maps = tensors.shape(predictor)[0]
    agnostic = maps == 1 and count > 1
    settings = {"mask_convs": len(convs), "mask_channels": inputs, "class_agnostic_masks": agnostic}
    if agnostic or not _dropped(tensors, (where.mask_predictor,), count, classes):
        expected = 1 if agnostic else count + int(classes.background_first)
        layer = tensors.conv(where.mask_predictor, (expected, inputs, 1, 1))
        columns = np.zeros(1, np.int64) if agnostic else classes.foreground(count)
        if classes.background_first and not agnostic:
            tensors.drop_part(where.mask_predictor, "background", "masks of the background are never used")
        head |= {"weight": layer["kernel"][0, 0][:, columns], "bias": layer["bias"][columns]}
    return head, settings


def _columns(layer: dict[str, np.ndarray], columns: np.ndarray) -> dict[str, np.ndarray]:
    return {"kernel": layer["kernel"][:, columns], "bias": layer["bias"][columns]}


def _dropped(tensors: Tensors, layers: Sequence[str], count: int, classes: Classes) -> bool:
    """Whether layers for `count` classes are not for the wanted number, and are left out for it."""
    kept = count if classes.kept is None else len(classes.kept)
    if classes.number is None or kept == classes.number:
        return False
    names = [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    tensors.drop(names, f"made for {kept} classes, not {classes.number}")
    return True
