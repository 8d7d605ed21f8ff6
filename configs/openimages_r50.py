"""OpenImages Challenge 2019 (500 categories, boxes): Faster R-CNN R50-FPN, sigmoid cross-entropy + GAP (Table 6).

    python train.py --config configs/openimages_r50.py --workdir runs/openimages_r50
    python eval.py  --config configs/openimages_r50.py --workdir runs/openimages_r50

Settings are those of the EQLv2 authors, whom the paper follows: 180,000 steps of 16 images at one scale. Files as the
Challenge's page offers them, in data/openimages; `--config.data.root=DIR` says where else they are.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.get_config()
    data = config.data
    data.format = "openimages"
    data.root = "data/openimages"
    root = data.get_ref("root")
    data.train_json = root + "/challenge-2019-train-detection-bbox.csv"
    data.val_json = root + "/challenge-2019-validation-detection-bbox.csv"
    data.train_images = root + "/train"
    data.val_images = root + "/validation"
    data.openimages.classes_csv = root + "/challenge-2019-classes-description-500.csv"
    data.openimages.hierarchy_json = root + "/challenge-2019-label500-hierarchy.json"
    data.openimages.train_labels_csv = root + "/challenge-2019-train-detection-human-imagelabels.csv"
    data.openimages.val_labels_csv = root + "/challenge-2019-validation-detection-human-imagelabels.csv"
    data.openimages.expand = True
    data.short_sides = (800,)

    config.model.num_classes = 500
    config.model.masks = False
    config.sampler.name = "random"
    config.loss.gap.weight = 1.0
    config.loss.gap.variant = "published"
    config.loss.frequency = "instances"
    for name in ("eql", "gol", "droploss", "eql_gumbel"):
        config.loss[name].threshold = 1652.0  # instances, as EQL's authors have it for OpenImages
    config.optim.milestone_unit = "steps"
    config.optim.milestones = (120_000, 160_000)
    config.train.steps = 180_000
    return config
