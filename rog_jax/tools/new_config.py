"""Writes a recipe for your own data: looks at it, counts, proposes, and says the command that trains.

    python -m rog_jax.tools.new_config --annotations train.json --val val.json --images photos/ --out configs/mine.py

Annotations are json in LVIS's or COCO's format. Both files and all images are checked as rog_jax.tools.check_data does;
nothing is written where training could not start. Sampler, weight of the ranking loss, padded shapes, batch and
schedule are proposed for the data and for the devices at hand, or for others:

    ... --device gpu --devices 8 --memory 80        # for eight GPUs of 80 GB, written on a machine that has none
    ... --weights weights/r50                       # to start from weights that rog_jax.tools.import_weights wrote

Each line of the recipe says why. It is yours to change: configs/common.py has every setting.
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs import common
from rog_jax.data import Annotations
from rog_jax.tools.check_data import check, summary
from rog_jax.tools.proposal import Machine, Setting, propose
from rog_jax.tools.recipe_file import load_config
from rog_jax.training.config import check_config
from rog_jax.training.storage import whole_file

WIDTH = 120
HEAD = '''"""{title}

    python train.py --config {out} --workdir {workdir}
    python eval.py  --config {out} --workdir {workdir}

Written by rog_jax.tools.new_config from these counts:

{counts}
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """The recipe."""
    config = common.get_config()
'''


class NotReady(ValueError):
    """The data cannot be trained on as it is, or the recipe not written."""


def new_config(given: argparse.Namespace) -> Path:
    """Checks the data, and writes the recipe.

    Raises:
        NotReady: the data has errors, or there is a file in the way.
        DataError, ValueError: it cannot be read.
    """
    out = Path(given.out)
    if out.suffix != ".py" or not out.stem.isidentifier():
        raise NotReady(f"--out {out}: a recipe's name must end in .py and be one that Python can import")
    if out.exists() and not given.overwrite:
        raise NotReady(f"{out} exists: add --overwrite, or choose another --out")
    data = common.get_config().data
    data.format = given.format
    data.train_json, data.val_json = given.annotations, given.val
    data.train_images, data.val_images = given.images, given.val_images or given.images
    train, val = (checked(data, split) for split in ("train", "val"))
    check_same_categories(train, val)
    machine = machine_of(given)
    settings = [*paths(data, given.weights), *propose(train, val, machine, bool(given.weights), boxes=given.boxes)]
    with whole_file(out) as partial:
        partial.write_text(recipe(settings, train, out), encoding="utf-8")
        check_config(load_config(partial), machine.devices)
    return out


def check_same_categories(train: Annotations, val: Annotations) -> None:
    """Refuses a validation set that evaluation would not take for this training set's, by the categories' ids.

    Of another name under the same id, it prints a remark: evaluation goes by ids, and names may be spelled anew.

    Raises:
        NotReady: names the first id that one of them lacks.
    """
    ours, theirs = (dict(zip(one.category_ids.tolist(), one.category_names, strict=True)) for one in (train, val))

    def both(key: int) -> str:
        return " and ".join(
            f"{names.get(key, 'missing')} in {one.source}" for names, one in ((ours, train), (theirs, val))
        )

    if lacking := ours.keys() ^ theirs.keys():
        raise NotReady(
            f"training and validation have other categories; the first that differs is {min(lacking)}: "
            f"{both(min(lacking))}. Give both files the same list of categories"
        )
    renamed = [key for key in sorted(ours) if ours[key] != theirs[key]]
    if renamed:
        print(
            f"{len(renamed)} categories have another name in validation; the first is {renamed[0]}: {both(renamed[0])}."
            " If they are not the same, no figure will mean anything"
        )


def checked(data: ConfigDict, split: str) -> Annotations:
    """A split without errors; what was found is printed.

    Raises:
        NotReady: it has errors.
    """
    findings, annotations = check(data, split)
    print(f"{split}: {data[f'{split}_json']}")
    for line in [*findings.lines(), *([] if annotations is None else summary(annotations))]:
        print(f"  {line}")
    if findings.errors or annotations is None:
        raise NotReady(f"{data[f'{split}_json']} has errors, which are named above: mend them, and call this again")
    return annotations


def machine_of(given: argparse.Namespace) -> Machine:
    """The machine that was asked for, by default this one."""
    platform = jax.devices()[0].platform
    here = "gpu" if platform in ("cuda", "rocm") else platform
    kind = given.device or here
    if kind == "cpu":
        return Machine("cpu", given.devices or 1, None)
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit") if kind == here else None
    if memory and kind == "gpu":
        memory /= preallocated_share()
    gigabytes = given.memory or (memory / 1e9 if memory else 16.0)
    return Machine(kind, given.devices or (jax.device_count() if kind == here else 1), gigabytes)


def preallocated_share() -> float:
    """Of a GPU's memory, that JAX takes, and says is all that there is."""
    return float(os.getenv("XLA_CLIENT_MEM_FRACTION") or os.getenv("XLA_PYTHON_CLIENT_MEM_FRACTION") or 0.75)


def paths(data: ConfigDict, weights: str | None) -> list[Setting]:
    """Where the data lies."""
    names = ("format", "train_json", "val_json", "train_images", "val_images")
    found = [Setting(f"data.{name}", data[name], "") for name in names]
    return [*([Setting("init_from", weights, "weights to start from")] if weights else []), *found]


def recipe(settings: list[Setting], train: Annotations, out: Path) -> str:
    """The text of the recipe."""
    counts = "\n".join(f"    {line}" for line in summary(train))
    title = f"{Path(train.source).name}: {train.num_classes} categories, {train.num_images} training images."
    places = {"out": shlex.quote(str(out)), "workdir": f"runs/{out.stem}"}
    texts = {"title": title, "counts": counts} | places
    lines = [HEAD.format(**{name: in_docstring(text) for name, text in texts.items()})]
    section = None
    order = list(common.get_config())
    for path, value, reason in sorted(settings, key=lambda setting: order.index(setting.path.partition(".")[0])):
        if path.partition(".")[0] != section:
            section = path.partition(".")[0]
            lines.append("")
        line = f"    config.{path} = {literal(value)}"
        if reason and len(line) + len(reason) + 4 > WIDTH:
            lines.append(f"    # {reason[0].upper()}{reason[1:]}.")
            reason = ""
        lines.append(line + (f"  # {reason}" if reason else ""))
    return "\n".join([lines[0].rstrip("\n"), *lines[1:], "    return config", ""])


def literal(value: Any) -> str:
    """Python's way to write a value, texts in double quotes where they hold none."""
    text = repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and '"' not in value else text


def in_docstring(text: str) -> str:
    """Text that Python reads back as it is from between triple quotes, also where UTF-8 cannot write it."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return escaped.encode("utf-8", "backslashreplace").decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's description."""
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, metavar="JSON", help="of the training images")
    parser.add_argument("--val", required=True, metavar="JSON", help="of the validation images")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--val-images", metavar="DIR", help="folder of the validation images, if it is another")
    parser.add_argument("--format", choices=("lvis", "coco"), default="lvis", help="default: %(default)s, reads both")
    parser.add_argument("--out", default="configs/mine.py", metavar="FILE.py", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.add_argument("--boxes", action="store_true", help="no masks, though the data has them")
    parser.add_argument("--weights", metavar="DIR", help="imported weights to start from")
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: what this machine has")
    parser.add_argument("--devices", type=int, metavar="N", help="default: as many as this machine has; a CPU is one")
    parser.add_argument("--memory", type=float, metavar="GB", help="of each device; default: this machine's, or 16")
    given = parser.parse_args(arguments)
    try:
        out = new_config(given)
    except (ValueError, OSError) as error:
        sys.exit(f"new_config: {error}")
    print(f"{out}: look through it, then\n  python train.py --config {shlex.quote(str(out))} --workdir runs/{out.stem}")


if __name__ == "__main__":
    main()
