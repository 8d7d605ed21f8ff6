"""Data sets with a name, so that everyone who makes one has the same bytes."""

from typing import Any

from rog_jax.data.synthetic import SyntheticSettings

_SCENES: dict[str, Any] = {"height": 96, "width": 96, "object_size": (20, 48), "num_categories": 120}
_MINI_LVIS: dict[str, Any] = _SCENES | {
    "seed": 2023,
    "train_images": 2000,
    "val_images": 500,
    "federated": 0.3,
    "not_exhaustive": 0.02,
    "val_instances": 22,
    "val_shift": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    # LVIS in miniature: the image counts of its quantiles, 120 categories, validation seen otherwise than training.
    "mini_lvis": _MINI_LVIS,
    # What the backbone of mini_lvis's runs is trained on: as many other categories, each as frequent as any other.
    "mini_lvis_backbone": _SCENES
    | {
        "seed": 2022,
        "train_images": 2000,
        "val_images": 250,
        "disjoint_from": _SCENES["num_categories"],
        "counts": (1000,),
        "val_instances": 10,
    },
    # The same counts with pictures drawn by others: wants the folders of sprites and of backgrounds.
    "mini_lvis_sprites": _MINI_LVIS | {"val_styles": ("openmoji", "twemoji")},
}
"""Settings of `SyntheticSettings` that differ from its defaults, by name. Docs/results.md says how they were chosen."""


def preset(name: str, **overrides: Any) -> SyntheticSettings:
    """The settings of that name, with some of them replaced.

    Raises:
        ValueError: there is no such name, or the settings contradict one another.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return SyntheticSettings(**(PRESETS[name] | overrides))
