"""The list of runs: names, order, and settings that the recipes have."""

import hashlib
import json

import pytest

from configs import ccp_r18, common, lvis_r50, mini_lvis
from rog_jax.data.presets import preset
from rog_jax.models.recipe import with_recipe
from rog_jax.tools.reproduce.places import ROOT
from rog_jax.tools.reproduce.runner import recipe_of
from rog_jax.tools.reproduce.runs import CAPS, VERSION
from rog_jax.tools.reproduce.sets import OPENIMAGES_SETTINGS, QUICK_SETTINGS, data_settings, start_settings
from rog_jax.tools.reproduce.status import RECIPE_EPOCHS
from rog_jax.tools.reproduce.targets import TARGETS
from rog_jax.training.config import check_config

RUNS = [row.run for target in TARGETS.values() for row in target.rows]


def test_a_name_means_one_run():
    described = {}
    for run in RUNS:
        assert described.setdefault(run.name, run.description()) == run.description()
    assert len({str({k: v for k, v in d.items() if k != "name"}) for d in described.values()}) == len(described)


def test_every_run_has_settings_that_training_accepts():
    for run in RUNS:
        recipe = {"configs/mini_lvis.py": mini_lvis, "configs/ccp_r18.py": ccp_r18}[recipe_of(run).partition(":")[0]]
        config = recipe.get_config(recipe_of(run).partition(":")[2])
        for path, value in (run.settings | (OPENIMAGES_SETTINGS if run.data == "openimages" else {})).items():
            section, _, name = path.rpartition(".")
            owner = config
            for part in section.split("."):
                owner = owner[part]
            assert name in owner, f"{run.name}: config.{path} is none of the recipe's"
            owner[name] = value
        config.model.num_classes = 120
        check_config(with_recipe(config), run.devices)
        assert config.loss.gap.weight == run.settings.get("loss.gap.weight", 0.1 if run.rfs else 1.0)
        assert (config.sampler.name == "repeat_factor") == run.rfs


def test_rows_are_compared_with_rows_of_their_table():
    for target in TARGETS.values():
        labels = [row.label for row in target.rows]
        assert len(set(labels)) == len(labels)
        assert {row.against for row in target.rows} <= {"", *labels}


def test_the_first_comparison_comes_first_and_seed_by_seed():
    wanted = [(run.name, seed) for run, seed in TARGETS["headline"].wanted()]
    names = ["sigmoid_ce", "sigmoid_ce-gap", "softmax_ce", "softmax_ce-gap"]
    assert wanted == [(name, seed) for seed in range(3) for name in names]
    assert [seed for _, seed in TARGETS["headline"].wanted(seeds=1)] == [0] * 4
    table1 = [(run.name, seed) for run, seed in TARGETS["table1"].wanted()]
    assert len(table1) == len(set(table1)) == 14 + 2 * (4 + 2)  # two more seeds of the headline and of the best row


@pytest.mark.parametrize("recipe", [mini_lvis, ccp_r18, lvis_r50])
def test_variants_that_make_no_sense_are_named(recipe):
    with pytest.raises(ValueError, match="unknown variant 3x; choose of"):
        recipe.get_config("3x,rfs")
    with pytest.raises(ValueError, match="random and rfs contradict"):
        recipe.get_config("random,rfs")


def test_the_recipe_by_hand_finds_what_the_runner_makes(places):
    for folder in ("data/drawn", "data/backbone", "backbones/resnet18"):
        (places.work / folder).mkdir(parents=True)
        (places.work / folder / "val.json").touch()  # as if it were finished
    made = data_settings("drawn", places) | start_settings("drawn", 18, places)
    config, backbone = mini_lvis.get_config(), mini_lvis.get_config("backbone")
    default = ROOT / "runs" / "reproduce"
    assert ROOT / config.data.root == default / made["data.root"].relative_to(places.work)
    assert ROOT / config.init_from == default / made["init_from"].relative_to(places.work)
    made = data_settings("backbone", places)
    assert ROOT / backbone.data.root == default / made["data.root"].relative_to(places.work)
    assert not backbone.init_from


def test_whoever_changes_the_recipe_thinks_of_the_version():
    """Records know each other by `VERSION` alone. Where runs come out as before (a new option, off), only the digest
    here is to be renewed.
    """
    recipes = {variant: mini_lvis.get_config(variant).to_dict() for variant in sorted(mini_lvis.VARIANTS)}
    sets = [
        preset("mini_lvis"),
        preset("mini_lvis_backbone"),
        preset("mini_lvis_sprites", sprites="a", backgrounds="b"),
    ]
    text = json.dumps([recipes, OPENIMAGES_SETTINGS, *map(vars, sets)], sort_keys=True)
    assert (VERSION, hashlib.sha256(text.encode()).hexdigest()[:12]) == (1, "26b9d11df977")


def test_the_recipe_is_what_the_runner_takes_it_for():
    config = mini_lvis.get_config()
    for run in RUNS:
        recipe = ccp_r18 if run.data == "ccp" else mini_lvis
        assert recipe.get_config().train.epochs == RECIPE_EPOCHS[run.data]
    assert config.test.max_detections == max(CAPS)
    assert config.train.gradient_sums
    known = common.get_config()
    for path in QUICK_SETTINGS:
        section, name = path.split(".")
        assert name in known[section]
