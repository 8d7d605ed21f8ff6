"""Command-line arguments of the programs that take a trained detector."""

import argparse
import ast
from collections.abc import Sequence
from typing import Any

from rog_jax.console import with_installed_recipes
from rog_jax.tools.recipe_file import load_config


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --step, --names, --config and --set."""
    parser.add_argument("--step", type=int, help="checkpoint of the run; default: the newest")
    parser.add_argument("--names", metavar="JSON", help="annotations with other names of the categories")
    parser.add_argument("--config", metavar="FILE.py", help="recipe that brought a classification loss of its own")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="such as test.flip=True")


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of --set; a recipe of --config is run, so that its loss is known.

    Raises:
        ValueError: there is no such recipe, or no "=".
    """
    if options.config:
        load_config(*with_installed_recipes([options.config]))
    return settings(options.set)


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Overrides from "PATH=VALUE", values as Python writes them, or text.

    Raises:
        ValueError: there is no "=".
    """
    overrides = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: it must be PATH=VALUE, such as test.flip=True")
        try:
            overrides[path.removeprefix("config.")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[path.removeprefix("config.")] = value
    return overrides
