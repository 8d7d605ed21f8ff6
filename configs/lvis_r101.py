"""ROG on LVIS v1 with ResNet-101; variants as in configs/lvis_r50.py.

python train.py --config configs/lvis_r101.py:2x --workdir runs/lvis_r101_2x
"""

from ml_collections import ConfigDict

from configs import lvis_r50


def get_config(variants: str = "1x,rfs") -> ConfigDict:
    """The recipe; see `configs.lvis_r50.get_config`."""
    config = lvis_r50.get_config(variants)
    config.model.depth = 101
    return config
