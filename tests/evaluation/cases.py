"""Made-up data sets with all that evaluators disagree about."""

import json

import numpy as np
from pycocotools import mask as coco_mask


def random_case(seed: int, side: int = 200, solid: float = 0.9) -> tuple[dict, list[dict], list[dict]]:
    """A tiny data set with detections as boxes and as masks: ties, objects and detections without area, number 0,
    ignored objects, categories not looked for and not exhaustively annotated. `solid` is the part of a mask that is
    not holes."""
    rng = np.random.default_rng(seed)
    annotations, boxes, masks = [], [], []
    images = [
        {
            "id": 10 - image,
            "height": side,
            "width": side,
            "file_name": f"{image}.jpg",
            "neg_category_ids": rng.choice(6, 2, replace=False).tolist(),
            "not_exhaustive_category_ids": rng.choice(6, 1).tolist(),
        }
        for image in range(5)
    ]
    for place in range(30):
        x, y, w, h = place_box(rng, side)
        annotation = {
            "id": place,
            "image_id": 10 - place % 5,
            "category_id": int(rng.integers(6)),
            "bbox": [x, y, w, h],
        }
        annotation |= {"area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        annotations.append(annotation | ({"ignore": 1} if rng.random() < 0.1 else {}))
    for _ in range(150):
        annotation = annotations[rng.integers(30)]
        near = rng.random() < 0.6
        x, y, w, h = annotation["bbox"] if near else place_box(rng, side)
        x, y = (int(np.clip(edge + rng.integers(-4, 5), 0, side - length)) for edge, length in ((x, w), (y, h)))
        category_id = annotation["category_id"] if near else int(rng.integers(6))
        record = {"image_id": annotation["image_id"], "category_id": category_id}
        record["score"] = int(rng.integers(1, 20)) / 20
        pixels = np.zeros((side, side), np.uint8, order="F")
        pixels[y : y + h, x : x + w] = rng.random((h, w)) < solid
        boxes.append(record | {"bbox": [x, y, w, h]})
        masks.append(record | {"segmentation": code_of(pixels)})
    categories = [{"id": number, "name": str(number), "frequency": "rrccff"[number]} for number in range(6)]
    return {"images": images, "annotations": annotations, "categories": categories}, boxes, masks


def place_box(rng: np.random.Generator, side: int) -> list[int]:
    shares = np.array([0, 0.04, 0.1, 0.2, 0.45, 0.6])
    width, height = (side * rng.choice(shares, 2, p=[0.06, 0.14, 0.2, 0.2, 0.2, 0.2])).astype(int).tolist()
    return [int(rng.integers(0, side - width)), int(rng.integers(0, side - height)), width, height]


def code_of(pixels: np.ndarray) -> dict:
    """A mask uint8 [H, W] as COCO's compressed run-length code."""
    code = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": code["size"], "counts": code["counts"].decode()}


def written(folder, truth: dict, records: list[dict]) -> tuple:
    """Paths of the two files of an evaluation."""
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, records), strict=True):
        path.write_text(json.dumps(content))
    return paths


def with_pixels(truth: dict, masks: list[dict]) -> tuple[dict, list[dict]]:
    """The same with "pixels" and "area" in each object and record, as the naive twins want them."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    objects = []
    for found in truth["annotations"]:
        code = coco_mask.merge(coco_mask.frPyObjects(found["segmentation"], *sizes[found["image_id"]]))
        objects.append(found | {"pixels": coco_mask.decode(code).astype(bool)})
    decoded = [record | {"pixels": coco_mask.decode(record["segmentation"]).astype(bool)} for record in masks]
    return truth | {"annotations": objects}, [record | {"area": record["pixels"].sum()} for record in decoded]


def with_areas(boxes: list[dict]) -> list[dict]:
    """The same with the area of each box."""
    return [record | {"area": record["bbox"][2] * record["bbox"][3]} for record in boxes]


def sparse_case(seed: int) -> tuple[dict, list[dict], list[dict]]:
    """A `random_case` with images and categories without an object, other sets of categories not looked for and not
    exhaustively annotated, and one of: few detections, detections of categories without objects alone, equal scores,
    or scores that are negative or above 1."""
    truth, boxes, masks = random_case(seed)
    rng = np.random.default_rng(seed)
    image_ids = [image["id"] for image in truth["images"]]
    empty_images = rng.choice(image_ids, rng.integers(1, 4), replace=False)
    absent = rng.choice(6, rng.integers(1, 4), replace=False)
    truth["annotations"] = [
        found
        for found in truth["annotations"]
        if found["image_id"] not in empty_images and found["category_id"] not in absent
    ]
    for image in truth["images"]:
        image["neg_category_ids"] = rng.choice(6, rng.integers(5), replace=False).tolist()
        image["not_exhaustive_category_ids"] = rng.choice(6, rng.integers(4), replace=False).tolist()
    kept = {
        0: rng.permutation(len(boxes))[: rng.integers(1, 20)].tolist(),
        1: [place for place, record in enumerate(boxes) if record["category_id"] in absent],
    }.get(seed % 4, range(len(boxes)))
    boxes, masks = ([records[place] for place in kept] for records in (boxes, masks))
    for record in [*boxes, *masks]:
        if seed % 4 == 2:
            record["score"] = 0.5
        elif seed % 4 == 3:
            record["score"] = 3 * record["score"] - 1
    return truth, boxes, masks
