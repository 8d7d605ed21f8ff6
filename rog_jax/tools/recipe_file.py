"""Recipes by the path of their file, for programs without absl's flags."""

import importlib.util
from importlib.machinery import SourceFileLoader
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
    loader = SourceFileLoader(Path(file).stem, file)  # whatever the name ends in
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()
