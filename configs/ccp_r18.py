"""Real photographs: Clothing Co-Parsing in LVIS format (52 categories, 800 images), ResNet-18 from scratch, on a CPU.

    python train.py --config configs/ccp_r18.py --workdir runs/ccp_r18
    python eval.py  --config configs/ccp_r18.py --workdir runs/ccp_r18

Variants: `:random`, and `:rfs` (repeat factor sampling, with the weight of GAP that belongs to it).

The data is not part of the repository; `--config.data.root=DIR` says where train.json, val.json and images/ are.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "random") -> ConfigDict:
    """The recipe.

    Args:
        variants: random or rfs.

    Raises:
        ValueError: an unknown variant, or both.
    """
    chosen = common.variants_of(variants, {"random", "rfs"}, ({"random", "rfs"},))
    config = common.get_config()
    config.data.root = "../shared/data/ccp"
    root = config.data.get_ref("root")
    config.data.train_json = root + "/train.json"
    config.data.val_json = root + "/val.json"
    config.data.train_images = root + "/images"
    config.data.val_images = root + "/images"
    config.data.shapes = ((224, 160), (160, 224))
    config.data.short_sides = (120, 128, 136, 144)
    config.data.max_long_side = 224
    config.data.test_short_side = 144
    config.data.max_objects = 16
    config.data.workers = 0  # a thread reads ahead: two cores have none to spare for processes

    if "rfs" in chosen:
        config.sampler.threshold = 100 / 800  # LVIS's factors for the same counts of images
    else:
        config.sampler.name = "random"
        config.loss.gap.weight = 1.0

    config.model.depth = 18
    config.model.width = 32
    config.model.norm = "group"
    config.model.frozen_stages = -1
    config.model.fpn_channels = 64
    config.model.dtype = "float32"

    config.rpn.samples = 128
    config.rpn.train_pre_nms = 500
    config.rpn.train_proposals = 300
    config.rpn.test_pre_nms = 500
    config.rpn.test_proposals = 300
    config.roi.samples = 64
    config.roi.hidden = 256
    config.roi.mask_pool = 14
    config.roi.mask_channels = 32
    config.roi.mask_convs = 2

    config.optim.lr_batch_size = 8
    config.optim.lr = 0.02
    config.optim.warmup_steps = 200
    # More than twice the published schedule: from scratch, 12 passes over 800 photographs end before the loss is flat.
    config.train.epochs = 28
    config.optim.milestones = (16, 22)
    config.train.batch_size = 8
    config.train.checkpoint_every = 250
    config.train.log_every = 50
    config.test.batch_size = 8
    config.test.pre_nms = 1000
    return config
