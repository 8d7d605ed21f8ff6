import json
import math

import pytest
from ml_collections import ConfigDict

from configs import common
from rog_jax.evaluation import evaluate_lvis
from rog_jax.evaluation.inference import ResultPaths
from rog_jax.evaluation.sweep import format_sweep, read_sweep, sweep_figures, sweep_results
from rog_jax.evaluation.truth import load_truth

ROW = {"kind": "bbox", "gamma": 0.0, "max_detections": 300, "AP": 0.4, "APr": 0.1, "APc": 0.3, "APf": math.nan}


@pytest.fixture
def config(case) -> ConfigDict:
    config = common.get_config()
    config.data.val_json = str(case / "truth.json")
    return config


def test_each_row_is_what_the_cap_gives(case, config, tmp_path, capsys):
    paths = [case / "results_bbox.json", case / "results_segm.json"]
    rows = sweep_results(config, paths, tmp_path, caps=(2, 3, 300))
    assert [(row["kind"], row["max_detections"]) for row in rows] == [
        (kind, cap) for kind in ("bbox", "segm") for cap in (300, 3, 2)
    ]
    for row in rows:
        path = case / f"results_{row['kind']}.json"
        expected = evaluate_lvis(case / "truth.json", path, row["kind"], row["max_detections"])
        assert row["AP"] == expected["AP"]
        assert row["APr"] == expected["APr"]
    assert len({row["AP"] for row in rows}) > 2
    table = capsys.readouterr().out
    assert "first row of its kind" in table
    again = read_sweep(tmp_path)
    assert [row["AP"] for row in again] == [row["AP"] for row in rows]
    assert math.isnan(again[0]["APc"])


def test_a_file_is_read_once_for_all_caps(case, monkeypatch):
    from rog_jax.evaluation import sweep

    calls = []
    read = sweep.read_both
    monkeypatch.setattr(sweep, "read_both", lambda *given: calls.append(given) or read(*given))
    truth = load_truth(case / "truth.json")
    results = {0.0: ResultPaths(case / "results_bbox.json", None), 0.5: ResultPaths(case / "results_bbox.json", None)}
    rows = sweep_figures(truth, results, (1, 2, 3), "hotcoco")
    assert len(calls) == 2
    assert [row["gamma"] for row in rows] == [0.0] * 3 + [0.5] * 3


def test_changes_are_relative_to_the_first_row():
    lines = format_sweep([ROW, ROW | {"max_detections": 50, "AP": 0.3, "APr": 0.0, "APc": 0.33}]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["kind", "gamma", "K", "AP", "APr", "APc", "APf"]
    assert lines[1].split() == ["bbox", "0", "300", "40.0", "10.0", "30.0", "-"]
    assert lines[2].split() == ["bbox", "0", "50", "30.0", "(-25.0%)", "0.0", "(-100.0%)", "33.0", "(+10.0%)", "-"]


def test_changes_are_relative_to_the_same_row_of_a_baseline():
    rows = [ROW | {"gamma": gamma, "max_detections": cap} for gamma in (0.0, 0.5) for cap in (300, 50)]
    baseline = [ROW | {"AP": 0.2}, ROW | {"AP": 0.5, "gamma": 0.5}, ROW | {"kind": "segm", "max_detections": 50}]
    lines = format_sweep(rows, baseline).splitlines()
    changes = [line.split()[4] for line in lines[1:5]]
    assert changes == ["(+100.0%)", "10.0", "(-20.0%)", "10.0"]  # the baseline has no row of 50 boxes
    without = format_sweep([ROW | {"gamma": 0.9}], [ROW | {"AP": 0.8}]).splitlines()
    assert "(-50.0%)" in without[1]  # another gamma is compared with none


@pytest.mark.parametrize(
    ("caps", "protocol", "message"),
    [
        ((0, 50), "auto", r"sweep over \[0, 50\] detections"),
        ((50, 50), "auto", "each once"),
        ((), "auto", "give positive numbers"),
        ((50,), "coco", "set config.test.protocol=lvis"),
    ],
)
def test_sweeps_without_meaning(case, config, tmp_path, caps, protocol, message):
    config.test.protocol = protocol
    with pytest.raises(ValueError, match=message):
        sweep_results(config, case / "results_bbox.json", tmp_path, caps)


def test_a_missing_or_wrong_baseline_is_named(case, config, tmp_path):
    arguments = (config, case / "results_bbox.json", tmp_path, (50,))
    with pytest.raises(FileNotFoundError, match=r"sweep\.json: run eval\.py --sweep on that run first"):
        sweep_results(*arguments, against=tmp_path)
    for content in ("[1]", "{", json.dumps({"rows": 3})):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(ValueError, match=r"sweep\.json is no sweep"):
            sweep_results(*arguments, against=tmp_path / "sweep.json")
