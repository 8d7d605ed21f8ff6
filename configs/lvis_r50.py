"""ROG on LVIS v1: Mask R-CNN R50-FPN, sigmoid cross-entropy + GAP, repeat factor sampling, 1x (12 epochs).

    python train.py --config configs/lvis_r50.py --workdir runs/lvis_r50
    python eval.py  --config configs/lvis_r50.py --workdir runs/lvis_r50

Variants: `configs/lvis_r50.py:2x`, `:random` and `:2x,random`. `loss.gap.variant` is that of the published code, which
made the paper's figures (Tables 1 and 5). That code also lets each device keep counts of its own
(`--config.loss.gap.counts_scope=device`); here they are those of all devices, as the paper's text has it.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = {"1x", "2x", "rfs", "random"}
CONTRADICTIONS = ({"1x", "2x"}, {"rfs", "random"})


def get_config(variants: str = "1x,rfs") -> ConfigDict:
    """The recipe.

    Args:
        variants: comma-separated: 1x or 2x, rfs or random.

    Raises:
        ValueError: an unknown variant, or two that contradict each other.
    """
    chosen = common.variants_of(variants, VARIANTS, CONTRADICTIONS)
    config = common.get_config()
    config.data.train_json = "data/lvis/lvis_v1_train.json"
    config.data.val_json = "data/lvis/lvis_v1_val.json"
    # Both: LVIS takes a fifth of its validation images from COCO's train2017.
    config.data.train_images = "data/coco"
    config.data.val_images = "data/coco"
    config.model.num_classes = 1203
    config.loss.gap.variant = "published"
    if "random" in chosen:
        config.sampler.name = "random"
        config.loss.gap.weight = 1.0
    if "2x" in chosen:
        config.train.epochs = 24
    return config
