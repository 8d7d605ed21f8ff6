"""`make demo`: a small Mask R-CNN on the procedural set, from scratch, in a few minutes on two CPU cores.

python -m rog_jax.tools.make_dataset --out demo/data
python train.py --config configs/quickstart.py --workdir demo/run
python eval.py  --config configs/quickstart.py --workdir demo/run
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.get_config()
    config.data.train_json = "demo/data/train.json"
    config.data.val_json = "demo/data/val.json"
    config.data.train_images = "demo/data/images"
    config.data.val_images = "demo/data/images"
    config.data.shapes = ((128, 128),)
    config.data.short_sides = (112, 120, 128)
    config.data.max_long_side = 128
    config.data.test_short_side = 128
    config.data.max_objects = 16
    config.data.workers = 0  # a thread reads ahead: two cores have none to spare for processes

    # Repeat factors of so small a set are all 1: sampling is random, and the weight the one that belongs to it.
    config.sampler.name = "random"
    config.loss.gap.weight = 1.0

    config.model.depth = 18
    config.model.width = 24
    config.model.norm = "group"
    config.model.frozen_stages = -1
    config.model.fpn_channels = 48
    config.model.dtype = "float32"

    config.rpn.anchor_scale = 6.0
    config.rpn.samples = 64
    config.rpn.train_pre_nms = 250
    config.rpn.train_proposals = 150
    config.rpn.test_pre_nms = 200
    config.rpn.test_proposals = 100
    config.roi.samples = 64
    config.roi.hidden = 256
    config.roi.mask_channels = 48
    config.roi.mask_convs = 2
    config.roi.mask_pool = 7

    config.optim.lr_batch_size = 8
    config.optim.lr = 0.02
    config.optim.warmup_steps = 100
    config.optim.milestone_unit = "steps"
    config.optim.milestones = (500, 630)
    config.train.batch_size = 8
    config.train.steps = 700
    config.train.checkpoint_every = 500
    config.train.log_every = 20
    config.train.gradient_sums = True
    config.test.batch_size = 8
    config.test.max_detections = 50
    config.test.written_detections = 100  # so that the report shows what the cut at 50 loses
    config.test.pre_nms = 500
    return config
