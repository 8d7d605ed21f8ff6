"""Exports a detector to files that run without this package: `python -m rog_jax.tools.export RUN --out DIR`.

RUN is the --workdir of train.py, one of its checkpoints, or a folder of rog_jax.tools.import_weights. Written are

    DIR/detector_HxW.stablehlo   the detector for pictures padded to H x W pixels, one file for each of the recipe's
                                 shapes, for CPU, CUDA and TPU (jax.export; jax keeps reading such files for six months)
    DIR/weights.safetensors      its weights, float32
    DIR/about.json               names and ids of the categories, sizes, files
    DIR/run.py                   runs it on a picture, in twenty lines that need jax, flatbuffers, OpenCV and
                                safetensors

Examples:
    python -m rog_jax.tools.export runs/r50 --out exported && python exported/run.py photo.jpg
    python -m rog_jax.tools.export runs/r50 --out exported --batch-size 8 --shape 832x1344 --set test.max_detections=100
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import save

from rog_jax import inference
from rog_jax.data.transforms import ExampleSettings, empty_example
from rog_jax.inference.loading import Loaded, load
from rog_jax.inference.predictor import scores_of
from rog_jax.tools.detector_arguments import add_detector_arguments, overrides_of
from rog_jax.training import runtime
from rog_jax.training.checkpoint import flattened

PLATFORMS = ("cpu", "cuda", "tpu")
SCRIPT = Path(inference.__file__).with_name("run_exported.py")


def export_detector(
    loaded: Loaded,
    out: str | Path,
    *,
    batch_size: int = 1,
    shapes: Sequence[tuple[int, int]] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> list[Path]:
    """Writes what the tool's description says.

    Args:
        loaded: the detector.
        out: folder, made if it is not there.
        batch_size: pictures of a call.
        shapes: (height, width) of padded pictures; the config's own if None.
        platforms: that the programs run on.

    Returns:
        The programs' files.

    Raises:
        ValueError: a shape is not a multiple of 32 pixels, or no platform is known by its name.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model, categories = loaded
    data = model.config.data
    shapes = [tuple(shape) for shape in (shapes or data.shapes)]
    weights = {name: np.asarray(jax.device_get(array)) for name, array in _weights(loaded).items()}
    program = jax.jit(detector_function(loaded))
    programs = []
    for height, width in shapes:
        if height % 32 or width % 32:
            raise ValueError(f"a padded shape must be multiples of 32 pixels, not {height}x{width}")
        arguments = (
            {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()},
            jax.ShapeDtypeStruct((batch_size, height, width, 3), np.uint8),
            jax.ShapeDtypeStruct((batch_size, 2), np.float32),
        )
        exported = export.export(program, platforms=tuple(platforms))(*arguments)
        file = out / f"detector_{height}x{width}.stablehlo"
        file.write_bytes(exported.serialize())
        programs.append(file)
    commit = str(model.facts.get("training", {}).get("commit"))
    (out / "weights.safetensors").write_bytes(save(weights, {"commit": commit}))  # save_file's are for one user alone
    about = {
        "programs": [[file.name, *shape] for file, shape in zip(programs, shapes, strict=True)],
        "batch_size": batch_size,
        "short_side": data.test_short_side,
        "long_side": data.max_long_side,
        "mask_threshold": model.config.test.mask_threshold,
        "names": list(categories.names),
        "category_ids": categories.ids.tolist(),
        "groups": list(categories.groups),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    (out / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    shutil.copyfile(SCRIPT, out / "run.py")
    return programs


def _weights(loaded: Loaded) -> dict[str, jax.Array]:
    """All arrays of the detector by their paths."""
    state = loaded.model.state
    return flattened(state.trainable) | flattened(state.fixed)


def detector_function(loaded: Loaded) -> Callable[[dict[str, Any], Any, Any], dict[str, Any]]:
    """The detector as a function of arrays alone.

    Returns:
        A function of weights by path, pictures uint8 [B, H, W, 3] (RGB, resized, padded with zeros at the right and the
        bottom) and their float32 [B, 2] (height, width) inside the padding, to "boxes" [B, K, 4] in pixels of the
        padded picture, "scores" [B, K], falling, "labels" [B, K], -1 in empty slots, and "masks" [B, K, M, M],
        probabilities inside the boxes, if the detector has masks.
    """
    model = loaded.model
    score_function, state = scores_of(model.definition, model.config), model.state
    example = empty_example((32, 32), ExampleSettings.testing(model.config.data))
    trees = state.trainable, state.fixed
    structures = [jax.tree.structure(tree) for tree in trees]
    paths = [list(flattened(tree)) for tree in trees]

    def detect(weights: dict[str, Any], image: Any, image_size: Any) -> dict[str, Any]:
        arrays = [
            jax.tree.unflatten(structure, [weights[path] for path in names])
            for structure, names in zip(structures, paths, strict=True)
        ]
        batch = jax.tree.map(lambda field: np.stack([field] * len(image)), example)
        batch = batch._replace(image=image, image_size=image_size)
        found = model.definition.merge(*arrays).predict(batch, score_function)
        return {name: array for name, array in found._asdict().items() if array is not None}

    return detect


def _shape(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH such as 832x1344")
    return int(height), int(width)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="RUN", help="run folder, checkpoint, or imported weights")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for what is written")
    parser.add_argument("--batch-size", type=int, default=1, help="pictures of a call")
    parser.add_argument(
        "--shape", type=_shape, action="append", metavar="HxW", help="padded shape; default: the recipe's"
    )
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: %(default)s")
    add_detector_arguments(parser)
    options = parser.parse_args(arguments)
    runtime.start()
    try:
        loaded = load(options.checkpoint, options.step, jax.device_count(), options.names, overrides_of(options))
        programs = export_detector(
            loaded,
            options.out,
            batch_size=options.batch_size,
            shapes=options.shape,
            platforms=options.platforms.split(","),
        )
    except (ValueError, OSError) as error:
        sys.exit(f"export: {error}")
    for file in [*programs, Path(options.out) / "weights.safetensors"]:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
