"""Converters: every tensor is used once or accounted for, and lands where and how our model wants it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common
from rog_jax.models.detector import Detector
from rog_jax.models.layers import FrozenBatchNorm
from rog_jax.models.recipe import with_recipe
from rog_jax.tools.golden_weights import detectron2_state, mmdet_state, resnet_state, torchvision_state
from rog_jax.training.initial import with_settings
from rog_jax.training.state import ModelDefinition
from rog_jax.weights import (
    WeightsError,
    convert,
    family_of,
    from_detectron2,
    from_mmdet,
    from_torchvision,
)
from rog_jax.weights.backbone import with_our_epsilon
from tests.weights.archives import caffe2_names

CLASSES = 3
STATES = {
    "torchvision": lambda: torchvision_state(50, CLASSES + 1),
    "mmdet": lambda: mmdet_state(50, CLASSES),
    "detectron2": lambda: detectron2_state(50, CLASSES),
}
LAST = {  # box predictor's classifier and deltas, mask predictor
    "torchvision": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    ),
    "mmdet": ("roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits"),
    "detectron2": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    ),
}
FIRST_FC = {
    "torchvision": "roi_heads.box_head.fc6",
    "mmdet": "roi_head.bbox_head.shared_fcs.0",
    "detectron2": "roi_heads.box_head.fc1",
}
FAMILIES = pytest.mark.parametrize("family", STATES)


@pytest.fixture(scope="module")
def states():
    return {family: make() for family, make in STATES.items()}


def shapes_of(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in leaves}


def model_shapes(settings, num_classes=CLASSES):
    config = with_settings(common.get_config(), settings, "test", everything=True)
    config.model.num_classes = num_classes
    trainable, fixed = ModelDefinition(config).initial
    return shapes_of(trainable) | shapes_of(fixed)


@FAMILIES
def test_every_tensor_is_used_and_every_parameter_filled(states, family):
    state = states[family]
    assert family_of(state) == family
    conversion = convert(family, state)
    assert sorted(conversion.used) == sorted(state)
    assert shapes_of(conversion.parameters) == model_shapes(conversion.settings)
    assert conversion.settings["model"]["num_classes"] == CLASSES
    parts = {name.partition("[")[2] for name in conversion.dropped}
    assert parts == ({"background]"} if family == "torchvision" else set())


@FAMILIES
def test_no_number_is_lost_or_doubled(states, family):
    """The norm of every array is that of its tensor, but for the background's rows."""
    convertors = {"torchvision": from_torchvision, "mmdet": from_mmdet, "detectron2": from_detectron2}
    _, parameters = convertors[family](states[family])
    ours = sorted(float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(parameters))
    first = {"torchvision": 1}.get(family, 0)
    state = dict(states[family])
    for name, rows in ((LAST[family][1], 4 * first), (LAST[family][2], first)):
        state |= {f"{name}.{leaf}": state[f"{name}.{leaf}"][rows:] for leaf in ("weight", "bias")}
    np.testing.assert_allclose(ours, sorted(float(np.linalg.norm(tensor)) for tensor in state.values()), rtol=1e-5)


@FAMILIES
def test_layouts(states, family):
    state, parameters = states[family], convert(family, states[family]).parameters
    classifier, deltas, masks = LAST[family]
    rng = np.random.default_rng(0)
    background = 0 if family == "torchvision" else CLASSES
    foreground = np.delete(np.arange(CLASSES + 1), background)

    pooled = rng.standard_normal((7, 7, 256)).astype(np.float32)  # y, x, channel
    fc1 = parameters["box_head"]["fc1"]
    theirs = state[f"{FIRST_FC[family]}.weight"] @ pooled.transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(pooled.reshape(-1) @ fc1["kernel"], theirs, rtol=1e-3, atol=1e-3)

    order = [*foreground, background]
    np.testing.assert_array_equal(
        parameters["box_head"]["classifier"]["kernel"], state[f"{classifier}.weight"][order].T
    )
    np.testing.assert_array_equal(parameters["box_head"]["classifier"]["bias"], state[f"{classifier}.bias"][order])
    rows = 4 * (np.arange(CLASSES) + (family == "torchvision"))[:, None] + np.arange(4)
    sets = parameters["box_head"]["deltas"]["kernel"].T.reshape(CLASSES, 4, -1)
    np.testing.assert_array_equal(sets, state[f"{deltas}.weight"][rows])
    skipped = int(family == "torchvision")
    np.testing.assert_array_equal(parameters["mask_head"]["weight"], state[f"{masks}.weight"][skipped:, :, 0, 0].T)
    np.testing.assert_array_equal(parameters["mask_head"]["bias"], state[f"{masks}.bias"][skipped:])


def test_deconvolution_reaches_the_same_pixels(states):
    """torch writes kernel[i, o, y, x] (I, O, kh, kw) to the pixel (2 row + y, 2 column + x)."""
    kernel = convert("mmdet", states["mmdet"]).parameters["mask_head"]["deconv"]["kernel"]
    np.testing.assert_array_equal(kernel, states["mmdet"]["roi_head.mask_head.upsample.weight"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("depth", [50, 101])
def test_imagenet_resnets_of_torchvision(depth):
    state = resnet_state(depth)
    state["bn1.num_batches_tracked"] = np.array(3)
    conversion = convert("torchvision", state)
    assert list(conversion.parameters) == ["backbone"]
    assert set(conversion.dropped) == {"fc.weight", "fc.bias", "bn1.num_batches_tracked"}
    assert conversion.settings["model"]["depth"] == depth
    assert sorted([*conversion.used, *conversion.dropped]) == sorted(state)


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_imagenet_resnets_without_bottlenecks(depth, blocks):
    model = Detector(with_recipe(tiny(depth)), seed=0)
    state, inputs = {"conv1.weight": np.ones((64, 3, 7, 7))}, 64
    norms = {"bn1": 64}
    for stage, count in enumerate(blocks):
        channels = 64 * 2**stage
        for index in range(count):
            root = f"layer{stage + 1}.{index}"
            state[f"{root}.conv1.weight"] = np.ones((channels, inputs, 3, 3))
            state[f"{root}.conv2.weight"] = np.ones((channels, channels, 3, 3))
            norms |= {f"{root}.bn1": channels, f"{root}.bn2": channels}
            if stage and index == 0:
                state[f"{root}.downsample.0.weight"] = np.ones((channels, inputs, 1, 1))
                norms[f"{root}.downsample.1"] = channels
            inputs = channels
    for norm, channels in norms.items():
        state |= {f"{norm}.{leaf}": np.ones(channels) for leaf in ("weight", "bias", "running_mean", "running_var")}
    settings, parameters = from_torchvision(state)
    assert settings["model"]["depth"] == depth
    assert shapes_of(parameters["backbone"]) == shapes_of(nnx.to_pure_dict(nnx.state(model.backbone)))


def tiny(depth):
    config = common.get_config()
    config.model.depth, config.model.num_classes, config.roi.hidden = depth, 2, 8
    return config


def test_msra_pickles_of_caffe2_become_affine_norms():
    state = resnet_state(50)
    for name in state:
        if name.endswith("running_mean"):
            state[name] = 0 * state[name]
        if name.endswith("running_var"):
            state[name] = np.full_like(state[name], 1 - 1e-5)
    state["conv1.weight"] = state["conv1.weight"] / 58
    caffe = caffe2_names(state) | {"conv1_b": np.full(64, 0.25, np.float32)}
    assert family_of(caffe) == "detectron2"
    conversion = convert("detectron2", caffe)
    model = conversion.settings["model"]
    assert (model["stride_in_1x1"], model["pixel_order"], model["pixel_std"]) == (True, "bgr", (1.0, 1.0, 1.0))
    assert set(conversion.dropped) == {"fc1000.weight", "fc1000.bias"}
    same = convert("torchvision", state).parameters["backbone"]
    stem, wanted = conversion.parameters["backbone"].pop("stem"), same.pop("stem")
    jax.tree.map(np.testing.assert_array_equal, conversion.parameters["backbone"], same)
    np.testing.assert_allclose(stem["norm"]["mean"], wanted["norm"]["mean"] - 0.25)  # the bias of the convolution
    np.testing.assert_array_equal(stem["conv"]["kernel"], wanted["conv"]["kernel"])


def test_caffe_resnets_under_torchvision_names_are_told_by_their_stem():
    """MMDetection's files of the MSRA weights (`open-mmlab://detectron2/resnet50_caffe`) have torchvision's names."""
    state = resnet_state(50)
    caffe = state | {"conv1.weight": state["conv1.weight"] / 58}
    between = state | {"conv1.weight": state["conv1.weight"] / 7}
    for tensors, order in ((state, "rgb"), (caffe, "bgr"), (between, "rgb")):
        model = from_torchvision(tensors)[0]["model"]
        assert (model["pixel_order"], model["stride_in_1x1"]) == (order, order == "bgr")
    assert convert("torchvision", between, style="caffe").settings["model"]["pixel_order"] == "bgr"


@pytest.mark.parametrize(("variant", "style"), [("msra", "caffe"), ("torchvision", "pytorch")])
def test_stems_tell_the_convention(variant, style):
    state = detectron2_state(50, CLASSES, variant=variant)
    told, given = convert("detectron2", state), convert("detectron2", state, style=style)
    assert told.settings == given.settings
    assert told.settings["model"]["pixel_order"] == ("bgr" if style == "caffe" else "rgb")
    between = state | {"backbone.bottom_up.stem.conv1.weight": state["backbone.bottom_up.stem.conv1.weight"]}
    factor = 7 if variant == "msra" else 1 / 7
    between["backbone.bottom_up.stem.conv1.weight"] = factor * state["backbone.bottom_up.stem.conv1.weight"]
    with pytest.raises(WeightsError, match="does not show whether pixels are divided"):
        from_detectron2(between)
    assert from_detectron2(between, variant=variant)[0] == told.settings


def test_old_names_of_torchvision(states):
    old = {}
    for name, tensor in states["torchvision"].items():
        for new, past in ((".0.0.", ".0."), ("rpn.head.conv.0.", "rpn.head.conv.")):
            if name.startswith(("backbone.fpn", "rpn.head.conv")):
                name = name.replace(new, past)
        if name.startswith("backbone.fpn"):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if name.startswith("roi_heads.mask_head."):
            layer = int(name.split(".")[2])
            name = f"roi_heads.mask_head.mask_fcn{layer + 1}.{name.rpartition('.')[2]}"
        old[name] = tensor
    old_names = {name for name in old if name.startswith(("backbone.fpn", "rpn.head.conv", "roi_heads.mask_head"))}
    assert not old_names & set(states["torchvision"])
    new, past = (
        convert("torchvision", state, norm_epsilon=1e-5).parameters
        for state in (states["torchvision"], fpn_fixed(old, states))
    )
    jax.tree.map(np.testing.assert_array_equal, new, past)
    noted = convert("torchvision", fpn_fixed(old, states))
    assert noted.notes == ["the norms add 0 to their variance; ours were set to give the same"]
    assert not convert("torchvision", states["torchvision"]).notes


def test_norms_without_epsilon_give_the_same_here():
    """torchvision's COCO files were trained so, and have channels whose variance is far below our epsilon."""
    rng = np.random.default_rng(0)
    var = np.array([2.0, 1e-2, 1.1e-5, 1e-5, 3e-7, 1e-20, 1e-40], np.float32)
    deviation = np.sqrt(var.astype(np.float64))
    norm = {name: rng.standard_normal(7).astype(np.float32) for name in ("scale", "bias")}
    norm |= {"mean": (deviation * rng.standard_normal(7)).astype(np.float32), "var": var}
    inputs = (deviation * rng.standard_normal((9, 7))).astype(np.float32)
    ours = with_our_epsilon({"stem": {"norm": norm, "conv": {"kernel": np.ones(3)}}}, 0.0)["stem"]["norm"]
    model = FrozenBatchNorm(7, dtype=np.float32)
    for name, values in ours.items():
        getattr(model, name)[...] = values
    theirs = (inputs.astype(np.float64) - norm["mean"]) / deviation * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(model(jnp.asarray(inputs)), theirs, rtol=1e-5, atol=1e-5)
    assert (ours["var"] >= 0).all()
    np.testing.assert_allclose(ours["scale"][:3], norm["scale"][:3], rtol=1e-6)  # only small variances move it


@pytest.mark.parametrize("family", ["mmdet", "detectron2"])
def test_lvis_detectors_are_tested_as_on_lvis(states, family):
    state = dict(states[family])
    rows = {LAST[family][0]: 1204, LAST[family][1]: 4 * 1203, LAST[family][2]: 1203}
    for name, number in rows.items():
        for leaf in ("weight", "bias"):
            tensor = state[f"{name}.{leaf}"]
            state[f"{name}.{leaf}"] = np.zeros((number, *tensor.shape[1:]), np.float32)
    test = convert(family, state).settings["test"]
    assert (test["score_threshold"], test["max_detections"]) == (1e-4, 300)
    test = convert(family, states[family]).settings["test"]
    assert (test["score_threshold"], test["max_detections"]) == (0.05, 100)


def fpn_fixed(old, states):
    """The pyramid's old names: `inner_blocks.N.weight`."""
    result = {name: tensor for name, tensor in old.items() if not name.startswith("backbone.fpn")}
    for name, tensor in states["torchvision"].items():
        if name.startswith("backbone.fpn"):
            parts = name.split(".")
            result[".".join([*parts[:4], parts[-1]])] = tensor
    return result


@FAMILIES
def test_heads_of_another_number_of_classes_are_dropped_with_a_note(states, family):
    conversion = convert(family, states[family], num_classes=CLASSES + 4)
    assert set(conversion.dropped) == {f"{name}.{leaf}" for name in LAST[family] for leaf in ("weight", "bias")}
    assert set(conversion.dropped.values()) == {"made for 3 classes, not 7"}
    assert set(conversion.parameters["box_head"]) == {"fc1", "fc2"}
    assert set(conversion.parameters["mask_head"]) == {"convs", "deconv"}
    assert "num_classes" not in conversion.settings["model"]


@FAMILIES
def test_chosen_classes_keep_their_columns(states, family):
    whole = convert(family, states[family]).parameters
    part = convert(family, states[family], classes=[2, 0], num_classes=2)
    assert part.settings["model"]["num_classes"] == 2
    for leaf in ("kernel", "bias"):
        every = whole["box_head"]["classifier"][leaf]
        np.testing.assert_array_equal(part.parameters["box_head"]["classifier"][leaf], every[..., [2, 0, 3]])
        boxes = whole["box_head"]["deltas"][leaf].reshape(-1, CLASSES, 4)[:, [2, 0]]
        np.testing.assert_array_equal(part.parameters["box_head"]["deltas"][leaf].reshape(-1, 2, 4), boxes)
    np.testing.assert_array_equal(part.parameters["mask_head"]["weight"], whole["mask_head"]["weight"][:, [2, 0]])
    with pytest.raises(WeightsError, match="classes 0 to 2, asked for was 3"):
        convert(family, states[family], classes=[0, 3])


@FAMILIES
def test_class_agnostic_boxes_and_masks(states, family):
    state = dict(states[family])
    for name, rows in ((LAST[family][1], 4), (LAST[family][2], 1)):
        state |= {f"{name}.{leaf}": state[f"{name}.{leaf}"][:rows] for leaf in ("weight", "bias")}
    conversion = convert(family, state)
    assert conversion.settings["roi"]["class_agnostic_boxes"]
    assert conversion.settings["roi"]["class_agnostic_masks"]
    assert shapes_of(conversion.parameters) == model_shapes(conversion.settings)
    # Boxes for any class serve a detector of other classes too.
    other = convert(family, state, num_classes=9)
    assert "deltas" in other.parameters["box_head"]
    assert "classifier" not in other.parameters["box_head"]


@FAMILIES
def test_faster_rcnn_has_no_mask_head(states, family):
    state = {name: tensor for name, tensor in states[family].items() if "mask" not in name}
    conversion = convert(family, state)
    assert not conversion.settings["model"]["masks"]
    assert conversion.settings["roi"]["low_quality"] == "none"
    assert shapes_of(conversion.parameters) == model_shapes(conversion.settings)


@FAMILIES
def test_bad_tensors_are_named(states, family):
    state = states[family]
    name = f"{LAST[family][1]}.weight"
    with pytest.raises(WeightsError, match=f"{name} has the shape"):
        convert(family, state | {name: state[name][:-3]})
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        convert(family, {key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(WeightsError, match=r"neck\.gfl\.weight has no place in a ResNet, Faster R-CNN or Mask R-CNN"):
        convert(family, state | {"neck.gfl.weight": np.zeros(3)})


def test_other_architectures_are_refused(states):
    with pytest.raises(WeightsError, match=r"no tensor has a name of .*'visual\.proj'"):
        family_of({"visual.proj": np.zeros(3)})
    bottlenecks = resnet_state(50) | {"layer3.6.conv1.weight": np.zeros((256, 1024, 1, 1))}
    with pytest.raises(WeightsError, match=r"\(3, 4, 7, 3\) blocks"):
        from_torchvision(bottlenecks)
    second = dict(states["torchvision"]) | {"backbone.fpn.inner_blocks.0.1.weight": np.zeros(256)}
    with pytest.raises(WeightsError, match=r"inner_blocks\.0\.1\.weight has no place"):  # a norm in the pyramid
        from_torchvision(second)
    with pytest.raises(ValueError, match="variant='caffe'"):
        from_detectron2(states["detectron2"], variant="caffe")
    with pytest.raises(ValueError, match="family='keras'"):
        convert("keras", {})
