"""LVIS in miniature, for a laptop: a small Mask R-CNN on drawn scenes with LVIS's tail (docs/results.md).

    python -m rog_jax.tools.reproduce table1

makes the sets, the shared backbone, and every run of a table. One run by hand, when these are there (in runs/reproduce,
where --work does not say otherwise):

    python train.py --config configs/mini_lvis.py --workdir runs/one
    python eval.py  --config configs/mini_lvis.py --workdir runs/one

Variants: `:rfs` (repeat factor sampling, with the weight of GAP that belongs to it) and `:backbone` (what all other
runs start from: trained once, on categories that the set does not have, each as frequent as any other).
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = {"random", "rfs", "backbone"}
CONTRADICTIONS = ({"random", "rfs"}, {"rfs", "backbone"})


def get_config(variants: str = "random") -> ConfigDict:
    """The recipe.

    Args:
        variants: comma-separated: random or rfs, or backbone.

    Raises:
        ValueError: an unknown variant, or two that contradict each other.
    """
    chosen = common.variants_of(variants, VARIANTS, CONTRADICTIONS)
    config = common.get_config()
    config.data.root = f"runs/reproduce/data/{'backbone' if 'backbone' in chosen else 'drawn'}"
    root = config.data.get_ref("root")
    config.data.train_json = root + "/train.json"
    config.data.val_json = root + "/val.json"
    config.data.train_images = root + "/images"
    config.data.val_images = root + "/images"
    config.data.shapes = ((96, 96),)
    config.data.short_sides = (84, 90, 96)
    config.data.max_long_side = 96
    config.data.test_short_side = 96
    config.data.max_objects = 16
    config.data.workers = 0  # a thread reads ahead: two cores have none to spare for processes

    config.model.depth = 18
    config.model.width = 16
    config.model.norm = "group"
    config.model.frozen_stages = -1
    config.model.fpn_channels = 32
    config.model.dtype = "float32"

    config.rpn.anchor_scale = 6.0
    config.rpn.samples = 64
    config.rpn.train_pre_nms = 120
    config.rpn.train_proposals = 80
    config.rpn.test_pre_nms = 120
    config.rpn.test_proposals = 80
    config.roi.samples = 32
    config.roi.hidden = 256
    config.roi.mask_channels = 32
    config.roi.mask_convs = 2
    config.roi.mask_pool = 7

    config.loss.gap.variant = "published"
    # What LVIS's numbers are in a set of 2,000 images, not 99,388: the same counts of images. And background rows for
    # each object as they are sampled here.
    config.sampler.threshold = 100 / 2000
    for name in ("eql", "gol", "droploss", "eql_gumbel"):
        config.loss[name].threshold = 109 / 2000
    config.loss.ecm.background_ratio = 3.0
    config.optim.lr_batch_size = 8
    config.optim.lr = 0.02
    config.optim.warmup_steps = 100
    config.train.batch_size = 8
    config.train.epochs, config.optim.milestones = (10, (7, 9)) if "backbone" in chosen else (6, (4, 5))
    config.train.checkpoint_every = 250
    config.train.keep_checkpoints = 1
    config.train.log_every = 50
    config.train.gradient_sums = True
    config.test.batch_size = 8
    config.test.max_detections = 100
    config.test.written_detections = 300  # for AP-fixed: all that NMS leaves of the pairs below
    config.test.pre_nms = 500
    config.test.pictures = 0

    if "rfs" not in chosen:
        config.sampler.name = "random"
        config.loss.gap.weight = 1.0
    if "backbone" in chosen:
        config.loss.ranking = "none"
        config.train.gradient_sums = False
    else:
        config.init_from = "runs/reproduce/backbones/resnet18"  # of a backbone's run, without its heads
    return config
