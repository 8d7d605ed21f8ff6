import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rog_jax.models.layers import ParameterDraws
from rog_jax.models.resnet import (
    ResNet,
    frozen_path,
    max_pool,
    max_pool_by_slices,
    max_pool_by_window,
    normalise_image,
)
from tests.reference import models as reference

# torchvision's published counts without the fully connected layer.
PARAMETERS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_number_of_parameters_and_shapes_are_torchvisions(depth):
    model = ResNet(depth, width=64, norm="frozen_batch", dtype=jnp.float32, rngs=ParameterDraws(0))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[depth]
    shapes = [x.shape for x in jax.eval_shape(model, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))]
    channels = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
    assert model.channels == channels
    assert shapes == [(2, 64 // stride, 96 // stride, c) for stride, c in zip((4, 8, 16, 32), channels, strict=True)]


def naive_conv_norm(layer, x, stride=1):
    norm = layer.norm
    scale = norm.scale[...] / np.sqrt(norm.var[...] + 1e-5)
    return reference.conv2d(x, layer.conv.kernel[...], 0, stride) * scale + norm.bias[...] - norm.mean[...] * scale


def naive_resnet(model, x, stride_in_1x1=False):
    """Block by block from the figures of the paper."""
    x = reference.max_pool(reference.relu(naive_conv_norm(model.stem, x, 2)))
    features = []
    for level, stage in enumerate(model.stages):
        for index, block in enumerate(stage):
            stride = 2 if level > 0 and index == 0 else 1
            residual = x if block.shortcut is None else naive_conv_norm(block.shortcut, x, stride)
            if hasattr(block, "conv3"):
                first, second = (stride, 1) if stride_in_1x1 else (1, stride)
                x = reference.relu(naive_conv_norm(block.conv1, x, first))
                x = reference.relu(naive_conv_norm(block.conv2, x, second))
                x = naive_conv_norm(block.conv3, x)
            else:
                x = reference.relu(naive_conv_norm(block.conv1, x, stride))
                x = naive_conv_norm(block.conv2, x)
            x = reference.relu(x + residual)
        features.append(x)
    return features


@pytest.mark.parametrize(("depth", "stride_in_1x1"), [(18, False), (50, False), (50, True)])
def test_features_equal_the_naive_network(depth, stride_in_1x1):
    kwargs = {"stride_in_1x1": stride_in_1x1, "dtype": jnp.float32, "rngs": ParameterDraws(0)}
    model = ResNet(depth, width=4, norm="frozen_batch", **kwargs)
    rng = np.random.default_rng(1)
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "var"):
            module.mean[...] = rng.normal(0, 0.2, module.mean.shape).astype(np.float32)
            module.var[...] = rng.uniform(1, 3, module.var.shape).astype(np.float32)
            module.bias[...] = rng.normal(0, 0.2, module.bias.shape).astype(np.float32)
    x = rng.standard_normal((1, 32, 64, 3)).astype(np.float32)
    for got, want in zip(jax.jit(model)(x), naive_resnet(model, x, stride_in_1x1), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_unknown_depth_is_named():
    with pytest.raises(ValueError, match=r"config\.model\.depth=20 is unknown.*18, 34, 50, 101"):
        ResNet(20, norm="group", dtype=jnp.float32, rngs=ParameterDraws(0))


def test_stride_in_1x1_needs_a_1x1():
    with pytest.raises(ValueError, match="ResNet-18 has no 1x1"):
        ResNet(18, stride_in_1x1=True, norm="group", dtype=jnp.float32, rngs=ParameterDraws(0))


POOLS = (max_pool, max_pool_by_slices, max_pool_by_window)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_max_pool_equals_naive(size, pool):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32) - 5  # below 0: padding never wins
    np.testing.assert_array_equal(pool(jnp.asarray(x)), reference.max_pool(x).astype(np.float32))


def test_max_pools_have_one_gradient_where_no_pixels_are_equal():
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 6 * 8 * 3).reshape(2, 6, 8, 3), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4, 3)), jnp.float32)
    expected, *others = (jax.grad(lambda x, pool=pool: jnp.sum(weights * pool(x)))(x) for pool in POOLS)
    for gradient in others:
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("stages", "frozen"), [(-1, set()), (0, {"stem"}), (1, {"stem", 0}), (4, {"stem", 0, 1, 2, 3})]
)
def test_frozen_path_takes_the_stem_and_the_first_stages(stages, frozen):
    model = ResNet(18, width=4, norm="group", dtype=jnp.float32, rngs=ParameterDraws(0))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert {path[0] if path[0] == "stem" else path[1] for path in paths} == {"stem", 0, 1, 2, 3}
    for path in paths:
        part = "stem" if path[0] == "stem" else path[1]
        assert frozen_path(path, stages) == (part in frozen), path


def test_blue_comes_first_where_the_weights_want_it():
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 3)).astype(np.uint8)
    mean, std = (120.0, 110.0, 100.0), (1.0, 2.0, 4.0)
    result = normalise_image(jnp.asarray(image), jnp.asarray([[2, 3.0]]), mean, std, jnp.float32, order="bgr")
    np.testing.assert_allclose(result, (image[..., ::-1] - np.array(mean)) / np.array(std), rtol=1e-6)
    with pytest.raises(ValueError, match="pixel_order='gbr'"):
        normalise_image(jnp.asarray(image), jnp.asarray([[2, 3.0]]), mean, std, jnp.float32, order="gbr")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalised_image_is_zero_in_the_padding(dtype):
    image = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    sizes = np.float32([[6, 5], [3, 8]])
    mean, std = (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
    result = normalise_image(jnp.asarray(image), jnp.asarray(sizes), mean, std, dtype)
    assert result.dtype == dtype
    expected = np.zeros(image.shape)
    for b, (height, width) in enumerate(sizes.astype(int)):
        expected[b, :height, :width] = (image[b, :height, :width] - np.array(mean)) / np.array(std)
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(result, np.float32), expected, rtol=tolerance, atol=tolerance / 10)
