"""Every classification loss at a small size, with its statistics, its further inputs and its naive twin."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rog_jax.losses import ClassificationLoss, classification_loss
from tests.reference import classification as reference

CLASSES = 5
DEVICES = 8
ROWS = 4  # of a device
INSTANCES = np.array([3, 400, 1, 0, 90])
FREQUENCY = np.array([0.0004, 0.2, 0.0002, 0.0, 0.05])
UNIFORM = np.random.default_rng(8).random((DEVICES * ROWS, CLASSES)).astype(np.float32)
CLASS_DRAWS = np.array([0.2, 0.9, 0.5, 0.7, 0.1], np.float32)
MEAN_SCORES = np.array([0.3, 0.02, 0.7, 0.1, 0.01, 0.01])


class Case(NamedTuple):
    """One loss.

    Attributes:
        name: of the loss.
        options: of its constructor.
        inputs: further inputs, of all rows.
        per_row: names of the inputs that have a row for each row of the batch.
        twin: (logits, labels, weights) -> value and gradient of the first step.
    """

    name: str
    options: dict[str, Any]
    twin: Callable
    inputs: Mapping[str, np.ndarray] = MappingProxyType({})
    per_row: tuple[str, ...] = ()

    def loss(self) -> ClassificationLoss:
        return classification_loss(self.name, num_classes=CLASSES, **self.options)


def _rare(twin, entry):
    return lambda s, y, w: twin(s, y, FREQUENCY, entry=entry)


def _drop(entry):
    return lambda s, y, w: reference.droploss(s, y, FREQUENCY, UNIFORM, entry=entry)


def _eqlv2(logits, labels, weights):
    return reference.eqlv2(logits, labels, (np.zeros(CLASSES), np.zeros(CLASSES), np.full(CLASSES, 100.0)))[:2]


def _seesaw(logits, labels, weights):
    return reference.seesaw(logits, labels, weights, np.zeros(CLASSES + 1))[:2]


def _ecm(logits, labels, weights):
    counts = np.maximum(INSTANCES, 1)
    return reference.ecm(logits, labels, np.append(counts, 6.3313 * counts.sum()))


def _federated(logits, labels, weights):
    present = {int(y) for y in labels if y >= 0}
    chances = np.log(np.where(INSTANCES > 0, INSTANCES, 1.0)) * 0.5 - np.log(-np.log(CLASS_DRAWS.astype(np.float64)))
    others = sorted((c for c in range(CLASSES) if c not in present and INSTANCES[c] > 0), key=lambda c: -chances[c])
    chosen = present | set(others[: max(5 - len(present), 0)])
    counted = np.tile([c in chosen for c in range(CLASSES)], (len(labels), 1))
    return reference.federated(logits, labels, counted)


def _verified():
    return np.random.default_rng(9).random((DEVICES, CLASSES)) < 0.5


RARE, DRAWS = {"frequency": FREQUENCY}, {"uniform": UNIFORM}
SIGMOID, GUMBEL = reference.sigmoid_entry, reference.gumbel_entry
CASES = {
    case.name if "negatives" not in case.options else "federated_verified": case
    for case in (
        Case("sigmoid_ce", {}, lambda s, y, w: reference.binary(s, y, lambda i, c, t: 1.0)),
        Case("softmax_ce", {}, reference.softmax_ce),
        Case("eql", RARE, _rare(reference.eql, SIGMOID)),
        Case("eqlv2", {}, _eqlv2),
        Case("seesaw", {}, _seesaw),
        Case("ecm", {"counts": INSTANCES}, _ecm),
        Case("gol", RARE, _drop(GUMBEL), DRAWS, ("uniform",)),
        Case("droploss", RARE, _drop(SIGMOID), DRAWS, ("uniform",)),
        Case("eql_gumbel", RARE, _rare(reference.eql, GUMBEL)),
        Case("gumbel_ce", {}, reference.gumbel_ce),
        Case("loce", {}, lambda s, y, w: reference.loce(s, y, w, np.full(CLASSES + 1, 0.01))),
        Case(
            "federated",
            {"image_counts": INSTANCES, "num_sample_cats": 5},
            _federated,
            {"uniform": CLASS_DRAWS},
        ),
        Case(
            "federated",
            {"negatives": "verified"},
            lambda s, y, w: reference.federated(s, y, np.repeat(_verified(), ROWS, axis=0)),
            {"verified": _verified()},
            ("verified",),
        ),
        Case("none", {}, lambda s, y, w: (0.0, np.zeros(np.shape(s)))),
    )
}


def padded_batch(columns: int, seed: int = 4, scale: float = 2.0):
    """Logits [32, Q] with NaN in the padding rows, labels that leave a device without objects, and row weights.

    The weights are small, so that Gumbel cross-entropy stays under its cut-off at 20.
    """
    generator = np.random.default_rng(seed)
    rows = DEVICES * ROWS
    logits = generator.normal(-1, scale, (rows, columns)).astype(np.float32)
    labels = generator.choice([-1, 0, 1, 4, CLASSES], rows, p=[0.15, 0.15, 0.2, 0.2, 0.3])
    labels[:ROWS] = CLASSES  # a device without objects
    labels[-ROWS:] = -1  # a device without rows
    logits[labels < 0] = np.nan
    return logits, labels, generator.choice([0.0, 0.1, 0.4], rows).astype(np.float32)


def value_and_gradient(loss, logits, labels, weights=None, state=None, **inputs):
    """Value, gradient and next state, compiled once a loss and set of shapes."""
    return _step(loss, logits, labels, weights, loss.init_state() if state is None else state, inputs)


@partial(jax.jit, static_argnums=0)
def _step(loss, logits, labels, weights, state, inputs):
    def function(logits):
        return loss(logits, labels, weights, state, **inputs)

    (value, after), gradient = jax.value_and_grad(function, has_aux=True)(logits)
    return value, gradient, after


def on_devices(loss, logits, labels, weights=None, state=None, inputs=None, per_row=(), devices=DEVICES):
    """The same on simulated devices: values [devices], gradient [N, Q], and each device's next state, stacked."""
    state = loss.init_state() if state is None else state
    names = frozenset(per_row)
    return _device_step(loss, names, devices, logits, labels, weights, state, dict(inputs or {}))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _device_step(loss, per_row, devices, logits, labels, weights, state, inputs):
    rows, everywhere = PartitionSpec("data"), PartitionSpec()

    def step(logits, labels, weights, state, inputs):
        def function(logits):
            return loss(logits, labels, weights, state, axis_name="data", **inputs)

        (value, after), gradient = jax.value_and_grad(function, has_aux=True)(logits)
        return value[None], gradient, jax.tree.map(lambda x: x[None], after)

    specs = {name: rows if name in per_row else everywhere for name in inputs}
    mapped = jax.shard_map(
        step,
        mesh=Mesh(np.array(jax.devices()[:devices]), ("data",)),
        in_specs=(rows, rows, None if weights is None else rows, everywhere, specs),
        out_specs=rows,
        check_vma=False,
    )
    return mapped(logits, labels, weights, state, inputs)
