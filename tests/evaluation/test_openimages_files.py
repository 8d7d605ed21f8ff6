"""The small true-format set of tests/data/openimages, expanded: a duck is a bird and an animal, a car a vehicle."""

import csv
import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest

from configs import common
from rog_jax.data.openimages import load_openimages
from rog_jax.evaluation.figures import Protocol, figure_names
from rog_jax.evaluation.openimages import openimages_ap50
from rog_jax.evaluation.openimages_files import (
    detections_of,
    evaluate_openimages,
    read_openimages_results,
    truth_of,
    write_challenge_csv,
)
from rog_jax.evaluation.run import evaluate_results
from tests.reference.evaluation import openimages_average_precision

FOLDER = Path(__file__).parents[1] / "data" / "openimages"
VEHICLE, CAR, BOAT, ANIMAL, BIRD, DUCK, LAMP = range(1, 8)
FIRST = 0x0A1B2C3D4E5F6071


@pytest.fixture(scope="module")
def expanded():
    return load(labels=True)


def load(labels: bool, expand: bool = True):
    return load_openimages(
        FOLDER / "boxes.csv",
        FOLDER / "images",
        classes_csv=FOLDER / "class-descriptions-boxable.csv",
        labels_csv=FOLDER / "human-imagelabels.csv" if labels else None,
        hierarchy_json=FOLDER / "hierarchy.json",
        expand=expand,
    )


def records(annotations, *found: tuple) -> list[dict]:
    """Detections (image id, category, corners as shares, score) of the first image, in pixels."""
    sizes = dict(zip(annotations.image_ids.tolist(), annotations.image_sizes.tolist(), strict=True))
    made = []
    for image_id, category_id, (x1, y1, x2, y2), score in found:
        height, width = sizes[image_id]
        bbox = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
        made.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})
    return made


def test_figures_worked_out_by_hand(expanded, tmp_path):
    """Three cars, of which one is found, behind a wrong one; a lamp where nobody looked, and one where it is known not
    to be, of no consequence, since there are no lamps; and a boat that is known not to be there."""
    car, nothing = (0.125, 0.25, 0.5, 0.75), (0.7, 0.0, 0.9, 0.2)
    path = tmp_path / "results.json"
    path.write_text(
        json.dumps(
            records(
                expanded,
                (FIRST, CAR, nothing, 0.9),
                (FIRST, CAR, car, 0.8),
                (FIRST, LAMP, car, 0.7),
                (FIRST, BOAT, car, 0.6),
            )
        )
    )
    figures = evaluate_openimages(expanded, path)
    assert figures["per_category_AP50"] == pytest.approx(
        {VEHICLE: 0.0, CAR: (1 / 2) / 3, BOAT: 0.0, ANIMAL: 0.0, BIRD: 0.0, DUCK: 0.0}
    )
    assert figures["AP50"] == pytest.approx(1 / 6 / 6)
    with_parents = evaluate_openimages(expanded, path, expand_detections=True)
    # Of four vehicles, the car is one, as the second of three detections: the boat is a vehicle too, and a wrong one.
    assert with_parents["per_category_AP50"][VEHICLE] == pytest.approx((1 / 2) / 4)
    capped = evaluate_openimages(expanded, path, max_detections=1)
    assert capped["per_category_AP50"][CAR] == 0.0


def test_without_verified_labels_every_detection_counts(tmp_path):
    annotations = load(labels=False)
    assert truth_of(annotations).verified is None
    assert truth_of(load(labels=True)).verified.sum(axis=1).min() >= 1
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records(annotations, (0x5555666677778888, DUCK, (0.2, 0.2, 0.8, 0.8), 0.9))))
    assert evaluate_openimages(annotations, path)["per_category_AP50"][DUCK] == 0.0


@pytest.fixture
def random_results(expanded, tmp_path) -> Path:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        image = int(rng.integers(expanded.num_images))
        objects = np.arange(expanded.offsets[image], expanded.offsets[image + 1])
        height, width = expanded.image_sizes[image].tolist()
        if objects.size and rng.random() < 0.7:
            place = rng.choice(objects)
            box = expanded.boxes[place] / (width, height, width, height) + rng.normal(0, 0.03, 4)
            label = int(expanded.labels[place])
        else:
            corner = rng.uniform(0, 0.5, 2)
            box, label = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, 2)]), int(rng.integers(7))
        box = np.clip(box, 0, 1).tolist()
        found.append((int(expanded.image_ids[image]), label + 1, box, float(rng.integers(1, 40)) / 40))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records(expanded, *found)))
    return path


def test_csv_of_detections_is_read_by_another_program(expanded, random_results, tmp_path):
    """hotcoco reads our csv and finds the same AP; it sees no verified labels, so all detections count."""
    path = write_challenge_csv(expanded, random_results, tmp_path / "detections.csv", "detections")
    with (tmp_path / "truth.csv").open("w") as file:
        file.write("ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n")
        for place, image in enumerate(expanded.images_of_objects.tolist()):
            height, width = expanded.image_sizes[image].tolist()
            x1, y1, x2, y2 = (expanded.boxes[place].astype(float) / (width, height, width, height)).tolist()
            name, key = Path(expanded.file_names[image]).stem, expanded.category_keys[expanded.labels[place]]
            file.write(f"{name},{key},{x1},{x2},{y1},{y2},{int(expanded.crowd[place])}\n")
    known = {Path(expanded.file_names[image]).stem for image in expanded.images_of_objects.tolist()}
    keys = {expanded.category_keys[label] for label in expanded.labels.tolist()}
    lines = path.read_text().splitlines()
    kept = [line for line in lines[1:] if line.split(",")[0] in known and line.split(",")[1] in keys]
    path.write_text("\n".join([lines[0], *kept]) + "\n")  # hotcoco knows no image and no category without a box
    theirs = hotcoco.COCO.from_oid(str(tmp_path / "truth.csv"))
    evaluation = hotcoco.COCOeval(theirs, theirs.load_res_oid(str(path)), "bbox", oid_style=True)
    evaluation.run()
    results = read_openimages_results(expanded, random_results)
    detections = detections_of(expanded, results)
    with_boxes = np.isin(detections.images, expanded.images_of_objects)
    ours = openimages_ap50(truth_of(expanded)._replace(verified=None), detections.take(np.flatnonzero(with_boxes)))
    assert 0.1 < np.nanmean(ours) < 0.9
    assert evaluation.results()["metrics"]["AP"] == pytest.approx(np.nanmean(ours), abs=1e-6)


def test_submission(expanded, random_results, tmp_path):
    path = write_challenge_csv(expanded, random_results, tmp_path / "new" / "submission.csv")
    rows = list(csv.reader(path.open()))
    assert rows[0] == ["ImageId", "PredictionString"]
    assert [row[0] for row in rows[1:]] == [Path(name).stem for name in expanded.file_names]
    records = json.loads(random_results.read_text())
    for image, (_, text) in enumerate(rows[1:]):
        words = text.split()
        own = [record for record in records if record["image_id"] == expanded.image_ids[image]]
        assert len(words) == 6 * len(own)
        scores = [float(word) for word in words[1::6]]
        assert scores == sorted((record["score"] for record in own), reverse=True)
        assert set(words[::6]) <= set(expanded.category_keys)
        assert all(0 <= float(word) <= 1 for place, word in enumerate(words) if place % 6)


def test_the_protocol_of_a_config(random_results, tmp_path, capsys):
    config = common.get_config()
    config.data.format = "openimages"
    for split in ("train", "val"):
        config.data[f"{split}_json"], config.data[f"{split}_images"] = str(FOLDER / "boxes.csv"), str(FOLDER / "images")
    config.data.openimages.classes_csv = str(FOLDER / "class-descriptions-boxable.csv")
    config.data.openimages.hierarchy_json = str(FOLDER / "hierarchy.json")
    config.data.openimages.val_labels_csv = str(FOLDER / "human-imagelabels.csv")
    metrics = evaluate_results(config, random_results, tmp_path / "run")
    figures = evaluate_openimages(load(labels=True), random_results)
    assert metrics["bbox"]["AP50"] == figures["AP50"]
    assert metrics["bbox"]["per_category_AP50"] == figures["per_category_AP50"]
    single = [name for name, value in metrics["bbox"].items() if isinstance(value, float) and name != "seconds"]
    assert figure_names(Protocol("openimages"), "bbox") == single
    assert "AP50_5" in capsys.readouterr().out
    names = sorted(file.name for file in (tmp_path / "run" / "eval").iterdir())
    assert names == [".lock", "metrics.json", "per_class.csv", "submission.csv"]


@pytest.mark.parametrize("group_of", [True, False])
def test_against_the_naive_twin_from_files(expanded, random_results, group_of):
    results = read_openimages_results(expanded, random_results)
    detections, truth = detections_of(expanded, results), truth_of(expanded)
    images = []
    for image in range(expanded.num_images):
        own = np.flatnonzero(truth.images == image)
        found = np.flatnonzero((detections.images == image) & truth.verified[image, detections.labels])
        images.append(
            {
                "ground_truth": {
                    "boxes": truth.boxes[own].tolist(),
                    "labels": truth.labels[own].tolist(),
                    "group_of": truth.group_of[own].tolist(),
                },
                "detections": [
                    {
                        "label": int(detections.labels[row]),
                        "bbox": detections.boxes[row].tolist(),
                        "score": detections.scores[row],
                    }
                    for row in found
                ],
            }
        )
    ours = openimages_ap50(truth, detections, group_of=group_of)
    expected = [openimages_average_precision(images, label, group_of) for label in range(7)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
