"""The programs by name: train.py and eval.py, and what pip installs as rog-train, rog-eval and rog-predict."""

import runpy
import sys
from pathlib import Path


def train() -> None:
    """`rog-train`, as `python train.py`."""
    _run("rog_jax.commands.train")


def evaluate() -> None:
    """`rog-eval`, as `python eval.py`."""
    _run("rog_jax.commands.evaluate")


def predict() -> None:
    """`rog-predict`, as `python -m rog_jax.tools.predict`."""
    from rog_jax.tools.predict import main

    main()


def _run(module: str) -> None:
    """Runs a module as the main one: absl shows its flags and its description, and loader processes know it."""
    sys.argv[1:] = with_installed_recipes(sys.argv[1:])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def with_installed_recipes(arguments: list[str]) -> list[str]:
    """Arguments in which `configs/NAME.py`, where this folder has no such file, is the installed recipe; it says so."""
    import configs

    installed = Path(configs.__file__).parent

    def found(text: str) -> str:
        flag, equals, path = text.rpartition("=")
        file, colon, variant = path.partition(":")
        recipe = installed / Path(file).name
        if Path(file).parent != Path("configs") or Path(file).exists() or not recipe.is_file():
            return text
        print(f"{file} is not in this folder: the installed {recipe} is taken", file=sys.stderr)
        return f"{flag}{equals}{recipe}{colon}{variant}"

    return [found(text) for text in arguments]
