"""What the tests of AP loss and of Rank & Sort share."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

COPIED = Path(__file__).parents[1] / "data" / "losses"
METHODS = ("interval", "one_hot", "dense")


def padded(logits, targets, size=256):
    """A flat list with ignored entries at its end, so that small lists of all lengths compile once."""
    missing = max(0, size - len(logits))
    return np.pad(logits, (0, missing)), np.pad(targets, (0, missing), constant_values=-1)


def check(result, expected, tolerance):
    """Values and gradient; of the gradient's entries those count that are not far below the largest."""
    *values, gradient = result
    *expected_values, expected_gradient = expected
    np.testing.assert_allclose(values, expected_values, rtol=tolerance, atol=1e-3 * tolerance)
    scale = np.abs(expected_gradient).max(initial=0)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=tolerance, atol=1e-3 * tolerance * scale)


def rows(count=14, classes=5, positives=6, padding=2, seed=0, scale=0.6):
    """Logits [N, C], labels [N] and IoUs [N] of a detector's second stage, two of the IoUs alike and one zero."""
    generator = np.random.default_rng(seed)
    labels = np.full(count, classes)
    labels[:positives] = generator.integers(0, classes, positives)
    labels[positives : positives + padding] = -1
    ious = np.where((labels >= 0) & (labels < classes), generator.uniform(0.5, 1, count), 0)
    if positives > 3:
        ious[1], ious[2] = ious[0], 0
    order = generator.permutation(count)
    return generator.normal(0, scale, (count, classes)), labels[order], ious[order]


@st.composite
def flat_logits(draw, count):
    """float32 [count] that look for trouble: differences of exactly 0, delta and 2 delta, ties, and huge scores."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["any", "grid", "equal", "huge", "mixed"]))
    logits = generator.normal(0, 1, count)
    if kind in ("grid", "mixed"):
        logits = np.round(2 * logits) / 2
    if kind == "equal":
        logits[:] = logits[0]
    if kind == "huge":
        logits = np.sign(logits) * 1e4
    if kind == "mixed":
        logits = np.where(generator.random(count) < 0.3, np.sign(logits) * 1e4, logits)
    return logits.astype(np.float32)
