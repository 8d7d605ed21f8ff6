"""Compares the detector with a golden file: `python -m rog_jax.tools.compare_detector FILE.npz [FILE.npz ...]`.

A golden file holds what Mask R-CNN of torchvision, MMDetection or Detectron2 gave for one image, with weights that are
a function of the tensors' names, so no weight file is needed. The file's tensor names tell whose it is. Every
intermediate, the detections and masks, the training targets, the losses and the norm of each gradient are computed here
from the same weights, converted by `rog_jax.weights`; each key is printed with its error and its tolerance, and the
program ends with status 1 if one is over.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from rog_jax.models.rpn import level_anchors
from rog_jax.tools import golden_arrays
from rog_jax.tools.golden_arrays import Arrays, Reference
from rog_jax.tools.golden_measures import Check, compare
from rog_jax.tools.golden_run import GoldenRun, Scene, Trace, golden_config
from rog_jax.tools.golden_weights import detectron2_state, mmdet_state, torchvision_state
from rog_jax.training import runtime
from rog_jax.weights import from_detectron2, from_mmdet, from_torchvision

State = dict[str, np.ndarray]
Rule = tuple[str, str, float | int]
"""Beginning of a key, its measure, its tolerance; the first rule that fits counts."""

INPUTS = ("train/gt_", "train/proposals")
"""Keys of a pass that are given to it, or stand in the file a second time."""


@dataclass(frozen=True)
class Family:
    """What is particular to the files of one project.

    Attributes:
        name: of the project.
        state: the file's weights, from its own numbers.
        convert: weights to settings and parameters.
        losses: our losses by the file's names.
        levels: names of the pyramid's levels.
        rules: measure and tolerance of each key.
        mask_predictor: name of the mask predictor's tensors, without the last part.
        box_predictor: the same of the box deltas.
        background_first: the file's columns and labels begin with the background.
        paste: the project's way of pasting masks.
        training: the targets of the training pass.
    """

    name: str
    state: Callable[[Reference], State]
    convert: Callable[[Reference, State], tuple[dict, dict]]
    losses: Mapping[str, str]
    levels: tuple[str, ...]
    rules: tuple[Rule, ...]
    mask_predictor: str
    box_predictor: str
    background_first: bool = False
    paste: str = "detectron2"
    training: Callable[[Trace, Reference, list[int]], Arrays] = lambda trace, reference, anchors: {}


def rules(
    *, features: float, rpn: tuple[str, float | int], logits: float, scores: float, losses: float, gradients: float
) -> tuple[Rule, ...]:
    """Measures and tolerances of all keys, from the few numbers in which the projects' READMEs differ."""
    return (
        ("eval/fpn_abs_mean/", "relative", features),
        ("eval/fpn/", "of largest", features),
        ("eval/res_abs_mean/", "relative", features),
        ("eval/rpn_", *rpn),
        ("eval/base_anchors/", "absolute", 1e-4),
        ("eval/proposals (number)", "different", 0),
        ("eval/proposals (order)", "absolute", 1e-4),
        ("eval/proposals", "absolute", 0.05),
        ("eval/proposal_levels", "different", 0),
        ("eval/proposal_", "absolute", scores),
        ("eval/roi_features", "of largest", features),
        ("eval/mask_roi_features", "of largest", features),
        ("eval/box_head", "of largest", features),
        ("eval/box_", "absolute", logits),
        ("eval/mask_logits", "absolute", logits),
        ("eval/det (number)", "different", 0),
        ("eval/det (order)", "absolute", 1e-4),
        ("eval/det/boxes", "absolute", 0.05),
        ("eval/det/scores", "absolute", scores),
        ("eval/det/labels", "different", 0),
        ("eval/det/mask_area", "mask areas", 1),
        ("eval/det/mask0_packed", "mask pixels", 1),
        ("train/loss", "relative", losses),
        ("train/grad_norm_by_loss_", "different", 0),
        ("train/grad_norm", "relative", gradients),
        ("train/acc", "absolute", 1e-3),
        ("train/sampled_boxes", "absolute", 0.05),
        ("train/fg_boxes", "absolute", 0.05),
        ("train/box_", "absolute", logits),
        ("train/pos_box_targets", "absolute", logits),
        ("train/mask_logits_own", "absolute", logits),
        ("train/", "different", 0),
    )


FAMILIES = {
    "backbone.body.": Family(
        name="torchvision",
        state=lambda file: torchvision_state(
            int(file["depth"]), int(file["num_classes_with_background"]), int(file["seed"])
        ),
        convert=lambda file, state: from_torchvision(state),
        losses={
            "loss_objectness": "rpn_cls",
            "loss_rpn_box_reg": "rpn_box",
            "loss_classifier": "cls",
            "loss_box_reg": "box",
            "loss_mask": "mask",
        },
        levels=("0", "1", "2", "3", "pool"),
        rules=rules(features=1e-3, rpn=("of largest", 1e-3), logits=1e-2, scores=1e-3, losses=1e-3, gradients=1e-2),
        mask_predictor="roi_heads.mask_predictor.mask_fcn_logits",
        box_predictor="roi_heads.box_predictor.bbox_pred",
        background_first=True,
        paste="torchvision",
    ),
    "neck.": Family(
        name="MMDetection",
        state=lambda file: mmdet_state(int(file["depth"]), int(file["num_classes"]), int(file["seed"])),
        convert=lambda file, state: from_mmdet(state, style="pytorch"),
        losses={
            "loss_rpn_cls": "rpn_cls",
            "loss_rpn_bbox": "rpn_box",
            "loss_cls": "cls",
            "loss_bbox": "box",
            "loss_mask": "mask",
        },
        levels=("0", "1", "2", "3", "4"),
        rules=rules(features=1e-3, rpn=("absolute", 2e-3), logits=1e-2, scores=1e-3, losses=1e-3, gradients=1e-2),
        mask_predictor="roi_head.mask_head.conv_logits",
        box_predictor="roi_head.bbox_head.fc_reg",
        training=golden_arrays.mmdetection_training_arrays,
    ),
    "backbone.bottom_up.": Family(
        name="Detectron2",
        state=lambda file: detectron2_state(
            int(file["depth"]), int(file["num_classes"]), int(file["seed"]), str(file["variant"])
        ),
        convert=lambda file, state: from_detectron2(state, variant=str(file["variant"])),
        losses={
            "loss_rpn_cls": "rpn_cls",
            "loss_rpn_loc": "rpn_box",
            "loss_cls": "cls",
            "loss_box_reg": "box",
            "loss_mask": "mask",
        },
        levels=("p2", "p3", "p4", "p5", "p6"),
        rules=rules(features=1e-4, rpn=("of largest", 1e-4), logits=1e-3, scores=1e-4, losses=1e-4, gradients=2e-3),
        mask_predictor="roi_heads.mask_head.predictor",
        box_predictor="roi_heads.box_predictor.bbox_pred",
        training=lambda trace, file, anchors: golden_arrays.detectron2_training_arrays(trace, file),
    ),
}


def compare_file(path: str | Path) -> list[Check]:
    """One check for each key of a golden file, and a few of our own (numbers and order of rows).

    Raises:
        ValueError: the file is of no known family, or holds a key that nothing here computes.
    """
    with np.load(path) as archive:
        file = {key: archive[key] for key in archive.files}
    family = family_of(file, path)
    state = family.state(file)
    checks = _weight_checks(file, state)
    settings, parameters = family.convert(file, state)
    scene = _scene(file, family)
    num_classes = int(file["num_classes_with_background"]) - 1 if family.background_first else int(file["num_classes"])
    places = tensor_places(file, family, state)
    stem = next(name for name, place in places.items() if place == ("backbone", "stem", "conv", "kernel"))
    config = golden_config(settings, num_classes, scene, train_all=f"train/grad_norm/{stem}" in file)
    run = GoldenRun(config, parameters, scene)
    anchors = level_anchors(scene.image.shape[:2], FrozenConfigDict(config.rpn))
    ours = _evaluation_arrays(run, file, family, state, anchors)
    ours |= _training_arrays(run, file, family, places, [len(level) for level in anchors])
    return checks + _array_checks(file, ours, family)


def family_of(file: Reference, path: str | Path) -> Family:
    """The family that the tensor names speak of."""
    names = [str(name) for name in file.get("names", ())]
    for prefix, family in FAMILIES.items():
        if any(name.startswith(prefix) for name in names):
            return family
    raise ValueError(f"{path}: its key 'names' is not that of a torchvision, MMDetection or Detectron2 Mask R-CNN")


def tensor_places(file: Reference, family: Family, state: State) -> dict[str, tuple]:
    """Path in our parameters of each tensor that becomes one: found by converting tensors that hold their number."""
    numbered = {name: np.full(tensor.shape, number, np.float32) for number, (name, tensor) in enumerate(state.items())}
    _, parameters = family.convert(file, numbered)
    names = list(state)
    places = {}
    for path, array in jax.tree_util.tree_flatten_with_path(parameters)[0]:
        places[names[round(float(array.max()))]] = tuple(key.key for key in path)
    return places


def _weight_checks(file: Reference, state: State) -> list[Check]:
    names = sorted(state)
    checks = [compare("names", np.asarray(names), np.sort(file["names"]), "different", 0)]
    order = [str(name) for name in file["names"]]
    if "shapes" in file:
        shapes = [tuple(map(int, str(shape).replace(",", " ").split())) for shape in file["shapes"]]
        unequal = sum(state[name].shape != shape for name, shape in zip(order, shapes, strict=True) if name in state)
        checks.append(Check("shapes", unequal, 0, "different"))
    if "weight_sums" in file:
        wide = [state[name].astype(np.float64) for name in order]
        sums = np.asarray([[tensor.sum(), np.abs(tensor).sum()] for tensor in wide])
        checks.append(compare("weight_sums", sums, file["weight_sums"], "of largest", 1e-9))
    return checks


def _scene(file: Reference, family: Family) -> Scene:
    image = file["image"].astype(np.float32)
    if file["image"].dtype != np.uint8:
        image *= 255
    if str(file.get("channel_order", "RGB")) == "BGR":
        image = image[..., ::-1]
    labels = file["train/gt_labels"].astype(np.int32) - int(family.background_first)
    return Scene(np.ascontiguousarray(image), file["train/gt_boxes"], labels, file["train/gt_masks_packed"])


def _evaluation_arrays(
    run: GoldenRun, file: Reference, family: Family, state: State, anchors: list[np.ndarray]
) -> Arrays:
    trace = run.evaluation()
    ours = golden_arrays.feature_arrays(trace, family.levels)
    ours |= golden_arrays.proposal_arrays(trace, file)
    labels = file["eval/det/labels"] - int(family.background_first)
    ours |= golden_arrays.detection_arrays(run, trace, file | {"eval/det/labels": labels}, family.paste)
    weight, bias = (state[f"{family.mask_predictor}.{leaf}"] for leaf in ("weight", "bias"))
    ours["eval/mask_logits"] = golden_arrays.mask_channels(ours["mask_embedding"], weight, bias)
    ours |= {
        f"eval/base_anchors/{level}": boxes[: len(run.definition.config.rpn.ratios)]
        for level, boxes in enumerate(anchors)
    }
    if family.background_first:
        ours["eval/det/labels"] = ours["eval/det/labels"] + 1
        ours["eval/box_logits"] = np.roll(ours["eval/box_logits"], 1, axis=-1)
        # The detector has no deltas of the background: the stored tensor is applied to the same embedding.
        weight, bias = (state[f"{family.box_predictor}.{leaf}"][:4] for leaf in ("weight", "bias"))
        embedding = trace["embedding"][trace["proposal_valid"]][ours["rows"]]
        ours["eval/box_deltas"] = np.concatenate([embedding @ weight.T + bias, ours["eval/box_deltas"]], axis=-1)
    return ours


def _training_arrays(
    run: GoldenRun, file: Reference, family: Family, places: dict[str, tuple], anchors_a_level: list[int]
) -> Arrays:
    losses, gradients = run.losses_and_gradients()
    ours = golden_arrays.loss_arrays(losses, family.losses)
    ours |= golden_arrays.gradient_arrays(gradients, places, family.losses, file)
    ours |= family.training(run.training(), file, anchors_a_level)
    ours["train/frozen"] = np.setdiff1d([name for name in places if _learns(places[name])], ours["trained"])
    return ours


def _learns(place: tuple) -> bool:
    """Whether the projects train the parameter at all: norms of frozen backbones are buffers there."""
    return place[-1] in ("kernel", "weight", "bias") and "norm" not in place


def _array_checks(file: Reference, ours: Arrays, family: Family) -> list[Check]:
    wanted = [key for key in file if key.startswith(("eval/", "train/")) and not key.startswith(INPUTS)]
    missing = [key for key in wanted if key not in ours]
    unknown = [key for key in missing if not key.startswith("train/grad_norm/")]
    if unknown:
        raise ValueError(f"keys of a {family.name} file that nothing here computes: {', '.join(unknown)}")
    own = {"eval/proposals (number)": len(file["eval/proposals"]), "eval/det (number)": len(file["eval/det/boxes"])}
    own |= {"eval/proposals (order)": 0.0, "eval/det (order)": 0.0}
    theirs = {key: np.sort(file[key]) if key == "train/frozen" else file[key] for key in wanted}
    theirs |= {key: np.asarray(value) for key, value in own.items()}
    checks = []
    for key, array in theirs.items():
        measure, tolerance = next(rule[1:] for rule in family.rules if key.startswith(rule[0]))
        checks.append(compare(key, ours.get(key, np.nan), array, measure, tolerance))
    return checks


def print_checks(checks: list[Check], every: bool) -> None:
    """A line for each check, or for each that is over its tolerance."""
    width = max(len(check.key) for check in checks)
    print(f"{'key':{width}}  {'error':>9}  {'tolerance':>9}  measure")
    for check in checks:
        if every or not check.passed:
            verdict = "" if check.passed else "  <- over"
            print(f"{check.key:{width}}  {check.error:9.2g}  {check.tolerance:9.2g}  {check.measure}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--failures", action="store_true", help="print only what is over its tolerance")
    arguments = parser.parse_args()
    runtime.start()
    jax.config.update("jax_default_matmul_precision", "highest")
    failed = 0
    for path in arguments.files:
        checks = compare_file(path)
        over = sum(not check.passed for check in checks)
        failed += over
        print_checks(checks, every=not arguments.failures)
        print(f"{path}: {len(checks)} keys, {over} over their tolerance")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
