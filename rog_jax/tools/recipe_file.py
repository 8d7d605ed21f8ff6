"""Recipes by the path of their file, for programs without absl's flags."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict


def load_config(path: str | Path) -> ConfigDict:
    """The config of a recipe's file; `FILE.py:VARIANT` is understood as in train.py.

    Raises:
        ValueError: there is no such file.
    """
    file, _, variant = str(path).partition(":")
    if not Path(file).is_file():
        raise ValueError(f"there is no recipe {path}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()
