"""Every golden file of the classification families, through the public interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.losses import accumulate_counts, classification_loss, gap_loss
from rog_jax.losses.classification.gumbel import gumbel_cross_entropy
from tests.losses.classification_cases import on_devices, value_and_gradient

TOLERANCES = {np.float64: (1e-9, 1e-7), np.float32: (1e-4, 1e-4)}  # of values and of gradients, as their README says
BOTH = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def files(shared, pattern, at_least):
    paths = sorted((shared / "golden" / "losses").glob(f"{pattern}.npz"))
    assert len(paths) >= at_least
    return [np.load(path) for path in paths]


def close(actual, expected, tolerance):
    """Relative to the largest entry, so that what cancels to nearly nothing counts as nothing."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def check(loss, data, dtype, loss_key="loss", grad_key="grad", state=None, **inputs):
    value_tolerance, gradient_tolerance = TOLERANCES[dtype]
    logits = jnp.asarray(data["cls_score"].astype(dtype))
    weights = data["label_weights"].astype(dtype) if "label_weights" in data else None
    value, gradient, _ = value_and_gradient(loss, logits, data["labels"], weights, state, **inputs)
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(value, data[loss_key], rtol=value_tolerance)
    close(gradient, data[grad_key], gradient_tolerance)
    return logits


def check_scores(loss, logits, expected, dtype):
    np.testing.assert_allclose(
        loss.scores(logits), expected[:, : loss.num_classes], rtol=TOLERANCES[dtype][1], atol=1e-7
    )


@BOTH
@pytest.mark.parametrize(
    ("name", "family", "background"),
    [("sigmoid_ce", "sigmoidce", 1), ("softmax_ce", "softmaxce", 1), ("gumbel_ce", "gumbelce", 1)],
)
def test_without_statistics(shared, name, family, background, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, f"{family}_*", 6):
            loss = classification_loss(name, num_classes=data["cls_score"].shape[1] - background)
            logits = check(loss, data, dtype)
            check_scores(loss, logits, data["activation"], dtype)


@BOTH
def test_eql(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "eql_*", 6):
            classes = data["cls_score"].shape[1]
            loss = classification_loss(
                "eql", num_classes=classes, frequency=data["freq"], threshold=float(data["lambda_"])
            )
            logits = check(loss, data, dtype)
            check_scores(loss, logits, data["activation"], dtype)


@BOTH
def test_ecm(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "ecm_*", 6):
            classes = len(data["counts"])
            ratio = float(data["fg_bg_ratio"])
            loss = classification_loss("ecm", num_classes=classes, counts=data["counts"], background_ratio=ratio)
            np.testing.assert_allclose(loss.counts, data["sample_n"], rtol=1e-12)
            np.testing.assert_allclose(loss.class_weights, data["cls_weight"], rtol=1e-9)
            assert loss.class_weights.max() < 1 + 1e-7
            assert loss == classification_loss("ecm", num_classes=classes, counts=loss.counts, background_ratio=ratio)
            logits = check(loss, data, dtype)
            check_scores(loss, logits, data["activation"], dtype)


@BOTH
def test_gol_and_droploss(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "gol_droploss_*", 6):
            options = {"frequency": data["freq"], "threshold": float(data["lambda_"])}
            uniform = data["uniform"].astype(dtype)
            for name, suffix in (("gol", "gumbel"), ("droploss", "sigmoid")):
                loss = classification_loss(name, num_classes=len(data["freq"]), **options)
                logits = check(loss, data, dtype, f"loss_{suffix}", f"grad_{suffix}", uniform=uniform)
                if name == "gol":
                    check_scores(loss, logits, data["activation_gumbel"], dtype)


@BOTH
def test_eql_gumbel(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "gol_eql_gumbel_*", 2):
            options = {"frequency": data["freq"], "threshold": float(data["lambda_"])}
            check(classification_loss("eql_gumbel", num_classes=len(data["freq"]), **options), data, dtype)


@BOTH
def test_gumbel_entry_by_entry(shared, dtype):
    data = np.load(shared / "golden" / "losses" / "gumbel_elementwise.npz")
    with jax.enable_x64(dtype == np.float64):
        # Class 0 is each row's own and class 1 is not; no class is rare, so every entry counts.
        loss = classification_loss("eql_gumbel", num_classes=2, frequency=[1, 1])
        logits = jnp.tile(jnp.asarray(data["logit"].astype(dtype))[:, None], (1, 2))

        def one_row(row):
            return loss(row[None], jnp.zeros(1, jnp.int32), None, ())[0]

        values, gradient = jax.jit(jax.vmap(jax.value_and_grad(one_row)))(logits)
        value_tolerance, gradient_tolerance = TOLERANCES[dtype]
        np.testing.assert_allclose(values, data["loss_pos"] + data["loss_neg"], rtol=value_tolerance)
        entries = jax.jit(gumbel_cross_entropy)(logits, jnp.array([True, False]) & jnp.ones_like(logits, bool))
        np.testing.assert_allclose(entries[:, 0], data["loss_pos"], rtol=value_tolerance)
        np.testing.assert_allclose(entries[:, 1], data["loss_neg"], rtol=value_tolerance)
        # Where p (1 - p) is within rounding of the floor of 1e-12, nothing else is to be expected.
        np.testing.assert_allclose(gradient[:, 0], data["grad_pos"], rtol=gradient_tolerance, atol=1e-30)
        np.testing.assert_allclose(gradient[:, 1], data["grad_neg"], rtol=gradient_tolerance, atol=1e-20)
        assert -0.1 < gradient[np.abs(logits[:, 0] + 4).argmin(), 0] <= 0  # not -exp(4)


@BOTH
def test_eqlv2_over_steps(shared, dtype):
    value_tolerance, gradient_tolerance = TOLERANCES[dtype]
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "eqlv2_[!r]*", 4):
            options = {key: float(data[key]) for key in ("gamma", "mu", "alpha")}
            loss = classification_loss("eqlv2", num_classes=data["cls_score"].shape[-1] - 1, **options)
            state = loss.init_state()
            for i, (logits, labels) in enumerate(zip(data["cls_score"].astype(dtype), data["labels"], strict=True)):
                value, gradient, state = value_and_gradient(loss, jnp.asarray(logits), labels, None, state)
                np.testing.assert_allclose(value, data["loss"][i], rtol=value_tolerance)
                close(gradient, data["grad"][i], gradient_tolerance)
                for key in ("pos_grad", "neg_grad"):
                    np.testing.assert_allclose(getattr(state, key), data[f"{key}_after"][i], rtol=value_tolerance)
                np.testing.assert_allclose(state.ratio, data["pos_neg_after"][i], rtol=value_tolerance)
                check_scores(loss, jnp.asarray(logits), data["activation"][i], dtype)


@BOTH
def test_eqlv2_on_replicas(shared, dtype):
    value_tolerance, gradient_tolerance = TOLERANCES[dtype]
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "eqlv2_replicas*", 1):
            steps, replicas, rows, columns = data["cls_score"].shape
            options = {key: float(data[key]) for key in ("gamma", "mu", "alpha")}
            loss = classification_loss("eqlv2", num_classes=columns - 1, **options)
            state = loss.init_state()
            for i in range(steps):
                logits = jnp.asarray(data["cls_score"][i].reshape(-1, columns).astype(dtype))
                labels = data["labels"][i].reshape(-1)
                values, gradient, states = on_devices(loss, logits, labels, None, state, devices=replicas)
                np.testing.assert_allclose(values, data["loss"][i], rtol=value_tolerance)
                close(gradient.reshape(replicas, rows, columns), data["grad"][i], gradient_tolerance)
                for key, of_file in (("pos_grad", "pos_grad"), ("neg_grad", "neg_grad"), ("ratio", "pos_neg")):
                    np.testing.assert_allclose(
                        getattr(states, key), data[f"{of_file}_after"][i], rtol=value_tolerance, err_msg=key
                    )
                state = jax.tree.map(lambda x: x[0], states)


@BOTH
def test_seesaw_over_steps(shared, dtype):
    value_tolerance, gradient_tolerance = TOLERANCES[dtype]
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "seesaw_*", 4):
            options = {key: float(data[key]) for key in ("p", "q", "eps")}
            loss = classification_loss("seesaw", num_classes=data["cls_score"].shape[-1] - 2, **options)
            state = loss.init_state()
            for i, logits in enumerate(data["cls_score"].astype(dtype)):
                logits, weights = jnp.asarray(logits), data["label_weights"][i].astype(dtype)
                value, gradient, state = value_and_gradient(loss, logits, data["labels"][i], weights, state)
                expected = data["loss_cls_classes"][i] + data["loss_cls_objectness"][i]
                np.testing.assert_allclose(value, expected, rtol=value_tolerance)
                close(gradient, data["grad"][i], gradient_tolerance)
                np.testing.assert_array_equal(state, data["cum_samples_after"][i])
                check_scores(loss, logits, data["activation"][i], dtype)


@BOTH
def test_loce(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "loce_ebl_*", 2):
            loss = classification_loss("loce", num_classes=data["cls_score"].shape[1] - 1)
            check(loss, data, dtype, state=jnp.asarray(data["mean_score"].astype(dtype)))


@BOTH
def test_loce_mean_scores(shared, dtype):
    with jax.enable_x64(dtype == np.float64):
        for data in files(shared, "loce_mean_score*", 1):
            per_image, logits = int(data["num_per_image"]), data["cls_score"].astype(dtype)
            steps, images, positives = data["pos_assigned_gt_inds"].shape
            classes, gts = logits.shape[2] - 1, data["gt_labels"].shape[2]
            loss = classification_loss(
                "loce", num_classes=classes, alpha=float(data["alpha"]), background_score=float(data["bg_score"])
            )
            state = loss.init_state()
            for i in range(steps):
                labels, gt_ids = np.full((2, images, per_image), [[[classes]], [[0]]])
                gt_ids[:, :positives] = data["pos_assigned_gt_inds"][i] + gts * np.arange(images)[:, None]
                labels[:, :positives] = np.take_along_axis(
                    data["gt_labels"][i], data["pos_assigned_gt_inds"][i], axis=1
                )
                rows = images * per_image
                _, _, state = value_and_gradient(
                    loss,
                    jnp.asarray(logits[i, :rows]),
                    labels.reshape(-1),
                    None,
                    state,
                    gt_ids=gt_ids.reshape(-1),
                    memory_logits=logits[i, rows:],
                    memory_labels=data["selected_labels"][i],
                )
                np.testing.assert_allclose(state, data["mean_score_after"][i], rtol=TOLERANCES[dtype][0])


@pytest.mark.parametrize("name", ["sigmoid_ce", "softmax_ce", "seesaw"])
def test_with_gap_as_the_published_head(shared, name):
    data = np.load(shared / "golden" / "losses" / f"head_{name.removesuffix('_ce')}_gap.npz")
    with jax.enable_x64(True):
        loss = classification_loss(name, num_classes=data["num_samples_after"].shape[1] - 1)
        gamma, weight, delta = (float(data[key]) for key in ("gamma", "lam", "delta"))

        @jax.jit
        def step(logits, labels, counts, state):
            classification, state = loss(logits, labels, None, state)
            options = {"gamma": gamma, "weight": weight, "delta": delta, "variant": "published"}
            ranking = gap_loss(loss.foreground_logits(logits), labels, counts, max_positives=len(labels), **options)
            return classification + ranking, (classification, ranking, state)

        counts, state = jnp.zeros(loss.num_classes, jnp.int32), loss.init_state()
        for i, (logits, labels) in enumerate(zip(data["cls_score"], data["labels"], strict=True)):
            counts = accumulate_counts(counts, labels)
            gradient, aux = jax.grad(step, has_aux=True)(jnp.asarray(logits), labels, counts, state)
            value, ranking, state = aux
            expected = data["loss_cls"][i] + (data["loss_cls_objectness"][i] if name == "seesaw" else 0)
            np.testing.assert_allclose(value, expected, rtol=1e-9)
            np.testing.assert_allclose(ranking, data["loss_rank"][i], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(gradient, data["grad_total"][i], rtol=1e-7, atol=1e-12)
            np.testing.assert_array_equal(counts, data["num_samples_after"][i, :-1])
            if name == "seesaw":
                np.testing.assert_array_equal(state, data["cum_samples_after"][i])
