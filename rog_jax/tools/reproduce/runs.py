"""The runs: what each sets beside the recipe, under a name that stays.

A run's name and settings are in its record, so that a finished run is known again and never made a second time. Whoever
changes the recipe, the set or the backbone raises `VERSION`; records of another version are refused.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

VERSION = 1
"""Of configs/mini_lvis.py, the presets and the backbone together."""

Data = Literal["drawn", "sprites", "openimages", "ccp"]
CAPS = (20, 50, 100)
"""Detections an image that every run is evaluated at (Table 3); `configs/mini_lvis.py`'s own figures are those at the
last."""
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""NorCal's, that softmax runs are evaluated at."""


@dataclass(frozen=True)
class Run:
    """A training and its evaluation; a seed makes it one.

    Attributes:
        name: of records and folders.
        settings: of the config, by path, beside the recipe's.
        rfs: repeat factor sampling, with the recipe's weight of GAP for it.
        data: the set.
        depth: of the ResNet, whose own backbone the run starts from.
        gammas: of NorCal, that it is evaluated at.
        devices: simulated ones that share a batch.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    rfs: bool = False
    data: Data = "drawn"
    depth: int = 18
    gammas: tuple[float, ...] = ()
    devices: int = 1

    @property
    def replicates(self) -> int:
        """How many sets of validation images drawn anew it is evaluated on."""
        return REPLICATES if self.data in ("ccp", "sprites") else 0

    def description(self) -> dict[str, Any]:
        """What a record says of the run, and what makes two runs the same, as json has it."""
        settings = {
            path: list(value) if isinstance(value, tuple) else value for path, value in sorted(self.settings.items())
        }
        return {
            "name": self.name,
            "settings": settings,
            "rfs": self.rfs,
            "data": self.data,
            "depth": self.depth,
            "gammas": list(self.gammas),
            "devices": self.devices,
            "version": VERSION,
        }


REPLICATES = 500
"""Sets of validation images drawn anew, for the intervals of the sets that are not ours."""


def object_level(loss: str, ranking: str = "none", *, rfs: bool = False, data: Data = "drawn", **more: Any) -> Run:
    """A classification loss with a ranking loss or none.

    Args:
        loss: of `loss.classification`.
        ranking: of `loss.ranking`.
        rfs: as for `Run`.
        data: as for `Run`.
        more: other fields of `Run`.
    """
    name = "-".join([loss, *([ranking] if ranking != "none" else []), *(["rfs"] if rfs else []), *_depth_in_name(more)])
    settings = {"loss.classification": loss, "loss.ranking": ranking} | more.pop("settings", {})
    gammas = GAMMAS if loss == "softmax_ce" and data in ("drawn", "sprites") else ()
    prefix = "" if data == "drawn" else f"{data}-"
    return Run(prefix + name, settings, rfs=rfs, data=data, gammas=gammas, **more)


def _depth_in_name(fields: dict[str, Any]) -> list[str]:
    return [f"r{fields['depth']}"] if "depth" in fields else []


def gap_variation(name: str, *, devices: int = 1, **settings: Any) -> Run:
    """Sigmoid CE with GAP and some settings of GAP.

    Args:
        name: comes after `sigmoid_ce-gap-`.
        devices: as for `Run`.
        settings: of `loss.gap`: `weight=3.0` is `loss.gap.weight`.
    """
    changed = {f"loss.gap.{key}": value for key, value in settings.items()}
    base = {"loss.classification": "sigmoid_ce", "loss.ranking": "gap"}
    return Run(f"sigmoid_ce-gap-{name}", base | changed, devices=devices)
