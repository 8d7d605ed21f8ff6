"""Runs an exported detector on a picture, without rog_jax: python run.py PICTURE

Needs: pip install jax flatbuffers opencv-python-headless safetensors
"""

import json
import sys
from pathlib import Path

import cv2
import jax.export
import numpy as np
from safetensors.numpy import load_file

folder = Path(__file__).parent
about = json.loads((folder / "about.json").read_text())
picture = cv2.imread(sys.argv[1])
height, width = sys.exit(f"{sys.argv[1]} is no picture") if picture is None else picture.shape[:2]
scale = min(about["short_side"] / min(height, width), about["long_side"] / max(height, width))
size = [max(1, int(side * scale + 0.5)) for side in (height, width)]
fits = [(min(1.0, p[1] / size[0], p[2] / size[1]), -p[1] * p[2], p) for p in about["programs"]]
fit, _, (file, *shape) = max(fits)
size = [max(1, int(side * fit)) for side in size]
part = next((part for part in (8, 4, 2) if size[0] <= height // part and size[1] <= width // part), None)
if part and Path(sys.argv[1]).read_bytes().startswith(b"\xff\xd8"):  # a JPEG, as training and eval.py decode it
    picture = cv2.imread(sys.argv[1], getattr(cv2, f"IMREAD_REDUCED_COLOR_{part}"))
image = np.zeros((about["batch_size"], *shape, 3), np.uint8)
cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), size[::-1], dst=image[0, : size[0], : size[1]])
program = jax.export.deserialize((folder / file).read_bytes())
weights = load_file(folder / "weights.safetensors")
found = program.call(weights, image, np.tile(np.float32(size), (about["batch_size"], 1)))
for label, score, box in zip(*(np.asarray(found[name][0]) for name in ("labels", "scores", "boxes")), strict=True):
    if label >= 0:  # masks: found["masks"][0], [K, M, M], probabilities of the cells that tile each box
        print(about["names"][label], score, *(box / np.tile(size[::-1], 2) * [width, height, width, height]), sep="\t")
