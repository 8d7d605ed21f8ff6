"""Every op lowers for every platform, and runs inside `jax.shard_map` with its checks on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rog_jax.ops.boxes import decode, encode
from rog_jax.ops.masks import crop_masks, roi_align_masks
from rog_jax.ops.matching import match, sample, sample_mask
from rog_jax.ops.nms import class_nms
from rog_jax.ops.roi_align import roi_align
from rog_jax.ops.topk import top_k_large

KIND = np.arange(40, dtype=np.int32) % 3 - 1


def features_of(image):
    level = jnp.outer(image[:8, 0], image[:8, 1])[None, :, :, None]
    return [level, level[:, ::2, ::2]]


def pool(image, method, ratio=2):
    def loss(image):
        return (roi_align(features_of(image), image[None], (4, 8), 7, ratio, method=method) ** 2).sum()

    return jax.grad(loss)(image)


OPS = {  # each takes the boxes [40, 4] of an image
    "boxes": lambda image: decode(encode(image, image[::-1]), image),
    "match": lambda image: match(image[:5], image[:5, 0] > 10, image, 0.7, 0.3, "reassign"),
    "sample": lambda image: sample(jax.random.key(image[0, 0].astype(int)), KIND, 16, 0.25),
    "sample_mask": lambda image: sample_mask(jax.random.key(image[0, 0].astype(int)), KIND, 16, 0.25),
    "nms": lambda image: class_nms(image, KIND, image[:, 0] > 10, 0.5, tile=16, max_keep=10),
    "topk": lambda image: top_k_large(image.reshape(-1), 7),
    "gather": partial(pool, method="gather"),
    "windows": partial(pool, method="windows"),
    "adaptive": partial(pool, method="gather", ratio=0),
    "adaptive_windows": partial(pool, method="windows", ratio=0),
    "whole_masks": lambda image: roi_align_masks(jnp.full((40, 24, 4), 183, jnp.uint8), image, 7),
    "crop_masks": lambda image: crop_masks(jnp.full((40, 112, 14), 183, jnp.uint8), image, image[::-1]),
}


def some_boxes():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (8, 40, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 15, (8, 40, 2))], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", OPS)
def test_lowers_for_every_platform(name):
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(OPS[name]), platforms=platforms)(some_boxes()[0])
    assert exported.platforms == platforms


@pytest.mark.parametrize("name", OPS)
def test_runs_sharded_over_devices(name):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spec = PartitionSpec("data")
    images = some_boxes()
    sharded = jax.jit(jax.shard_map(jax.vmap(OPS[name]), mesh=mesh, in_specs=spec, out_specs=spec))(images)
    alone = jax.jit(jax.vmap(OPS[name]))(images)
    for got, want in zip(jax.tree.leaves(sharded), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
