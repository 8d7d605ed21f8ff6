"""A sweep from one pass of a tiny detector against runs of it for a single K and gamma."""

import json

import pytest

from rog_jax.data.synthetic import SyntheticSettings, make_dataset
from rog_jax.evaluation import evaluated_model, run, sweep
from rog_jax.evaluation.evaluated_model import EvaluatedModel
from rog_jax.evaluation.results_file import keep_best, read_results
from rog_jax.evaluation.truth import load_truth
from rog_jax.training.state import data_mesh, inference_state
from tests.tiny import tiny_config

SETTINGS = SyntheticSettings(
    train_images=12, val_images=10, num_categories=5, height=64, width=64, object_size=(16, 32), val_instances=2
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, SETTINGS)
    config = tiny_config()
    config.loss.classification = "softmax_ce"
    config.data.train_json, config.data.val_json = str(folder / "train.json"), str(folder / "val.json")
    config.data.train_images = config.data.val_images = str(folder / "images")
    return config


@pytest.fixture
def untrained(monkeypatch):
    def model(config, workdir, annotations, step=None) -> EvaluatedModel:
        config, definition = evaluated_model.untrained(config, None)
        # Untrained scores hardly differ: larger weights make some boxes sure and others not.
        definition.initial[0]["box_head"]["classifier"]["kernel"] *= 30
        return EvaluatedModel(config, definition, inference_state(definition, data_mesh()), {"step": 0})

    monkeypatch.setattr(run, "evaluated_model", model)
    monkeypatch.setattr(sweep, "evaluated_model", model)


@pytest.mark.parametrize("flip", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_pass_serves_every_k_and_gamma(config, untrained, tmp_path, capsys, flip):
    """Also with views; there, what is written for the largest K is that K's, and smaller ones take the best of it."""
    config = config.copy_and_resolve_references()
    config.test.flip = flip
    rows = sweep.sweep_run(config, tmp_path, caps=(2, 7), gammas=(0.0, 2.0))
    table = capsys.readouterr().out
    single = config.copy_and_resolve_references()
    single.test.max_detections, single.test.written_detections = (7, 0) if flip else (2, 7)
    single.test.norcal.gamma = 2.0
    metrics = run.evaluate_run(single, tmp_path)
    truth = load_truth(config.data.val_json)
    for kind in ("bbox", "segm"):
        files = [
            tmp_path / "eval" / folder / f"results_{kind}.json" for folder in ("sweep/gamma_2", "", "sweep/gamma_0")
        ]
        swept, alone, plain = (read_results(f, kind, truth.image_sizes, truth.category_ids.tolist()) for f in files)
        assert len(alone.scores) > len(keep_best(alone, 2).scores)
        assert swept.image_ids.tolist() == alone.image_ids.tolist()
        assert swept.category_ids.tolist() == alone.category_ids.tolist()
        assert swept.boxes == pytest.approx(alone.boxes, abs=1e-2)
        assert swept.scores == pytest.approx(alone.scores, rel=1e-5)
        cap = single.test.max_detections
        of_row = next(r for r in rows if (r["kind"], r["gamma"], r["max_detections"]) == (kind, 2.0, cap))
        assert metrics[kind]["AP"] == pytest.approx(of_row["AP"], abs=1e-6)
        assert plain.category_ids.tolist() != swept.category_ids.tolist()  # gamma does something
    assert [(row["kind"], row["gamma"], row["max_detections"]) for row in rows] == [
        (kind, gamma, cap) for kind in ("bbox", "segm") for gamma in (0.0, 2.0) for cap in (7, 2)
    ]
    written = json.loads((tmp_path / "eval" / "sweep" / "sweep.json").read_text())
    assert written["run"]["step"] == 0
    assert len(written["rows"]) == 8
    assert len(table.splitlines()) == 11


def test_norcal_wants_a_softmax(config, untrained, tmp_path):
    wrong = config.copy_and_resolve_references()
    wrong.loss.classification = "sigmoid_ce"
    with pytest.raises(ValueError, match="those of SigmoidCE are none"):
        sweep.sweep_run(wrong, tmp_path, caps=(2,), gammas=(0.5,))
