"""Which parts of a step compute in bfloat16 where the config says so, equation by equation of the traced programs."""

import re
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from rog_jax.data import ClassStatistics
from rog_jax.losses.interval_one_hot import SCOPE
from rog_jax.tools.profile_shares import OTHER, PARTS, part_of
from rog_jax.tools.program_cost import inner_programs
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.step import make_predict_step, make_train_step, to_devices
from tests.tiny import random_batch, tiny_config

STATISTICS = ClassStatistics((1, 2, 3, 5, 8), (1, 4, 6, 9, 12), 20)
BFLOAT16 = np.dtype("bfloat16")
SHORT = {"backbone", "fpn", "rpn_head", "roi_align", "box_head", "mask_head"}
"""Parts whose products may be bfloat16; all others are float32 throughout."""
WITHOUT_GRADIENT = {"proposals", "roi_sampling", "gradient_mean", "optimizer"}


def trace(program: str, **loss):
    """The jaxpr of a step in bfloat16."""
    config = tiny_config()
    config.model.dtype = "bfloat16"
    config.loss.update(loss)
    mesh = data_mesh(jax.devices()[:1])
    definition = ModelDefinition(config, STATISTICS)
    optimizer = create_optimizer(definition.config.optim, lambda step: 0.1)
    state = create_state(definition, optimizer, mesh)
    if program == "train":
        step = make_train_step(definition, optimizer, lambda step: 0.1, mesh)
    else:
        step = make_predict_step(definition, mesh)
    batch = to_devices(random_batch(0, size=2, verified=definition.config.data.negatives), mesh)
    return jax.make_jaxpr(step)(state, batch)


def equations(program, path: str = "") -> Iterator[tuple[str, bool, object]]:
    """Part, whether of a gradient, and equation, of a program and of those within; each lies in its caller's scopes."""
    for equation in getattr(program, "jaxpr", program).eqns:
        own = f"{path}/{equation.source_info.name_stack}"
        if re.search(rf"\b{SCOPE}\b", own):  # whose parts of float32 are exact: tests/losses/test_interval_one_hot.py
            continue
        yield *part_of(own), equation
        for inner in inner_programs(equation.params):
            yield from equations(inner, own)


def dtypes(equation) -> set[np.dtype]:
    """Of what it takes and makes."""
    return {getattr(variable.aval, "dtype", None) for variable in (*equation.invars, *equation.outvars)}


@pytest.mark.parametrize(
    ("program", "loss"),
    [
        ("train", {"classification": "sigmoid_ce", "ranking": "gap"}),
        pytest.param("train", {"classification": "seesaw", "ranking": "rank_sort"}, marks=pytest.mark.slow),
        ("inference", {"classification": "sigmoid_ce"}),
    ],
)
def test_losses_boxes_and_ranking_see_no_bfloat16(program, loss):
    products, seen = {}, set()
    for part, gradient, equation in equations(trace(program, **loss)):
        seen.add((part, gradient))
        name = equation.primitive.name
        if part not in SHORT | {OTHER} and not list(inner_programs(equation.params)):
            assert BFLOAT16 not in dtypes(equation), f"{part}: {equation}"
        if name in ("dot_general", "conv_general_dilated"):
            products.setdefault(part, set()).update(variable.aval.dtype for variable in equation.invars)
    # The heavy products are bfloat16 indeed, so that the rest of this test says something.
    assert {part for part in SHORT if BFLOAT16 in products.get(part, ())} >= SHORT - {"roi_align"}
    assert all(products[part] == {BFLOAT16} for part in ("backbone", "fpn", "rpn_head"))
    found = {part for part, _ in seen} - {OTHER}
    if program == "inference":
        assert found == {"backbone", "fpn", "rpn_head", "proposals", "roi_align", "box_head", "mask_head", "detections"}
        return
    # Every part of a profile is in the step, forward and backward.
    assert found == set(PARTS) - {"feature_memory", "detections"}
    assert {part for part in found if (part, True) in seen} == found - WITHOUT_GRADIENT
