"""What each project does around its weights, as settings of `configs/common.py`: the numbers of its default configs."""

from typing import Any, Literal

Settings = dict[str, dict[str, Any]]
Pixels = Literal["pytorch", "caffe"]

PIXELS: dict[str, dict[str, Any]] = {
    "pytorch": {
        "stride_in_1x1": False,
        "pixel_order": "rgb",
        "pixel_mean": (123.675, 116.28, 103.53),
        "pixel_std": (58.395, 57.12, 57.375),
    },
    "caffe": {
        "stride_in_1x1": True,
        "pixel_order": "bgr",
        "pixel_mean": (103.53, 116.28, 123.675),
        "pixel_std": (1.0, 1.0, 1.0),
    },
}
"""Input and stride of ResNets in torchvision's and in Caffe's (MSRA's) convention."""

_RPN = {
    "anchor_scale": 8.0,
    "ratios": (0.5, 1.0, 2.0),
    "anchor_offset": 0.0,
    "box_stds": (1.0, 1.0, 1.0, 1.0),
    "positive_iou": 0.7,
    "negative_iou": 0.3,
    "samples": 256,
    "positive_fraction": 0.5,
    "nms_iou": 0.7,
    "proposals_per_level": 0,
    "train_pre_nms": 2000,
    "train_proposals": 1000,
    "test_pre_nms": 1000,
    "test_proposals": 1000,
}
_ROI = {
    "samples": 512,
    "positive_fraction": 0.25,
    "positive_iou": 0.5,
    "box_pool": 7,
    "mask_pool": 14,
    "box_stds": (0.1, 0.1, 0.2, 0.2),
    "predictor": "linear",
    "mask_predictor": "conv",
}
_TEST = {"score_threshold": 0.05, "nms_iou": 0.5, "max_detections": 100, "min_size": -1.0}

_MODEL = {"frozen_stages": 1, "fpn_extra_level": "max_pool", "dtype": "float32"}
LVIS_CLASSES = (1203, 1230)
"""Of LVIS v1 and v0.5."""
LVIS_TEST = {"score_threshold": 1e-4, "max_detections": 300}
"""What MMDetection's and Detectron2's configs for LVIS change in `test`."""

DETECTORS: dict[str, Settings] = {
    "torchvision": {
        "model": {**_MODEL, "norm_trained": False, "box_clamp": "above"},
        "rpn": {
            **_RPN,
            "anchor_rounding": True,
            "anchor_strides": "image",
            "low_quality": "keep",
            "min_positive_iou": 0.0,
            "smooth_l1_beta": 1 / 9,
            "loss_divisor": "sampled",
            "min_size": 1e-3,
            "train_proposals": 2000,
        },
        "roi": {
            **_ROI,
            "low_quality": "none",
            "sampling_ratio": 2,
            "aligned": False,
            "level_epsilon": 1e-6,
            "smooth_l1_beta": 1 / 9,
            "mask_targets": "soft",
        },
        "test": {**_TEST, "min_size": 1e-2},
        "loss": {"classification": "softmax_ce"},
    },
    "mmdet": {
        "model": {**_MODEL, "norm_trained": True, "box_clamp": "both"},
        "rpn": {
            **_RPN,
            "anchor_rounding": False,
            "anchor_strides": "level",
            "low_quality": "reassign",
            "min_positive_iou": 0.3,
            "smooth_l1_beta": 0.0,
            "loss_divisor": "sampled",
            "min_size": 0.0,
        },
        "roi": {
            **_ROI,
            "low_quality": "reassign",
            "sampling_ratio": 0,
            "aligned": True,
            "level_epsilon": 1e-6,
            "smooth_l1_beta": 0.0,
            "mask_targets": "binary",
        },
        "test": _TEST,
        "loss": {"classification": "softmax_ce"},
    },
    "detectron2": {
        "model": {**_MODEL, "norm_trained": False, "box_clamp": "above"},
        "rpn": {
            **_RPN,
            "anchor_rounding": False,
            "anchor_strides": "level",
            "low_quality": "keep",
            "min_positive_iou": 0.0,
            "smooth_l1_beta": 0.0,
            "loss_divisor": "samples",
            "min_size": 0.0,
        },
        "roi": {
            **_ROI,
            "low_quality": "none",
            "sampling_ratio": 0,
            "aligned": True,
            "level_epsilon": 1e-8,
            "smooth_l1_beta": 0.0,
            "mask_targets": "binary",
        },
        "test": _TEST,
        "loss": {"classification": "softmax_ce"},
    },
}
"""Mask R-CNN with FPN as each project's default configs train and test it."""
