"""Imports weights of another project: `python -m rog_jax.tools.import_weights FILE --to DIR`.

FILE is a `.pth`, `.pt`, `.pkl` or `.safetensors` file of torchvision, MMDetection or Detectron2: an ImageNet ResNet, a
Faster R-CNN or a Mask R-CNN with FPN (docs/weights.md lists some). Nothing in it is executed, and torch is not needed.
DIR is then taken by `train.py --config.init_from=DIR`, and a whole detector by `eval.py --config.init_from=DIR`.

Example:
    python -m rog_jax.tools.import_weights resnet50-0676ba61.pth --to weights/r50
    python train.py --config configs/lvis_r50.py --workdir runs/r50 --config.init_from=weights/r50
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

from rog_jax.training.checkpoint import CheckpointError
from rog_jax.training.initial import InitialWeights, save_initial
from rog_jax.weights import Conversion, WeightsError, convert, family_of, read_weights

COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Category ids between 1 and 90 that COCO does not use, and torchvision's detectors have columns for."""
PARTS = ("backbone", "fpn", "rpn", "box_head", "mask_head")


def import_file(
    path: str | Path,
    folder: str | Path,
    *,
    family: str | None = None,
    style: str | None = None,
    num_classes: int | None = None,
    norm_epsilon: float | None = None,
    coco_91_to_80: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Reads a weight file and writes it as imported weights.

    Args:
        path: of the file.
        folder: to be written.
        family: torchvision, mmdet or detectron2; told from the tensors' names if None.
        style: pytorch or caffe; told from the stem if None.
        num_classes: heads for another number of categories are left out.
        norm_epsilon: see `rog_jax.weights.from_torchvision`.
        coco_91_to_80: of a torchvision detector's 90 classes, those that COCO uses are kept.
        overwrite: replace imported weights in the folder.

    Raises:
        WeightsError: the file cannot be read, is not what its name says, or has another architecture.
        CheckpointError: the folder is not empty.
    """
    checksum = check_checksum(path)
    weights = read_weights(path)
    classes = [number - 1 for number in range(1, 91) if number not in COCO_UNUSED] if coco_91_to_80 else None
    try:
        family = family or family_of(weights.tensors)
        options = {"style": style, "num_classes": num_classes, "classes": classes, "norm_epsilon": norm_epsilon}
        conversion = convert(family, weights.tensors, **options)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    about = {"file": Path(path).name, "sha256": checksum, "family": family, "left_out": conversion.dropped}
    save_initial(folder, InitialWeights(conversion.parameters, conversion.settings, about), overwrite=overwrite)
    return conversion


def check_checksum(path: str | Path) -> str:
    """The file's SHA-256, compared with its beginning if the name carries it, as torchvision's and MMDetection's do.

    Raises:
        WeightsError: they differ, or there is no such file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and not checksum.startswith(named[1]):
        raise WeightsError(
            f"{path}: its name promises the checksum {named[1]}, it has {checksum[:8]}: the download is broken, or the "
            "file was changed (rename it if you changed it yourself)"
        )
    return checksum


def print_report(conversion: Conversion) -> None:
    """What became of every tensor."""
    print(f"{conversion.family}: {len(conversion.used)} tensors used, {len(conversion.dropped)} left out")
    for name, reason in conversion.dropped.items():
        print(f"  left out: {name} ({reason})")
    for note in conversion.notes:
        print(f"  note: {note}")
    for part in PARTS:
        found = conversion.parameters.get(part)
        missing = [name for name in ("classifier", "deltas") if part == "box_head" and found and name not in found]
        missing += ["weight"] if part == "mask_head" and found and "weight" not in found else []
        state = (
            "fresh at the start" if not found else "imported" + (f", fresh: {', '.join(missing)}" if missing else "")
        )
        print(f"  {part}: {state}")
    for section, values in conversion.settings.items():
        print(f"  config.{section}: " + ", ".join(f"{name}={value}" for name, value in values.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to be written")
    parser.add_argument("--from", dest="family", choices=("torchvision", "mmdet", "detectron2"), help="default: seen")
    parser.add_argument("--style", choices=("pytorch", "caffe"), help="pixels and strides; default: seen")
    parser.add_argument("--num-classes", type=int, help="leave out heads for another number of categories")
    parser.add_argument("--norm-epsilon", type=float, help="default: 0 for torchvision's COCO files, else 1e-5")
    parser.add_argument("--coco-91-to-80", action="store_true", help="keep the categories of torchvision's COCO files")
    parser.add_argument("--overwrite", action="store_true", help="replace weights imported earlier")
    arguments = parser.parse_args()
    try:
        conversion = import_file(
            arguments.file,
            arguments.to,
            family=arguments.family,
            style=arguments.style,
            num_classes=arguments.num_classes,
            norm_epsilon=arguments.norm_epsilon,
            coco_91_to_80=arguments.coco_91_to_80,
            overwrite=arguments.overwrite,
        )
    except (WeightsError, CheckpointError) as error:
        sys.exit(f"import_weights: {error}")
    print_report(conversion)
    print(arguments.to)


if __name__ == "__main__":
    main()
