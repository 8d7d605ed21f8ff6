"""What is compared are forms of one thing: they give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rog_jax.tools import compile_choices as program


def random(*sides, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(sides), jnp.float32)


def test_forms_of_the_stem_are_one_convolution():
    kernel, images = random(7, 7, 3, 8), random(2, 12, 16, 3, seed=1)
    expected = program.stem_by_convolution(kernel, images)
    np.testing.assert_allclose(program.stem_by_depth(kernel, images), expected, rtol=1e-4, atol=1e-4)


def test_forms_of_a_kernels_gradient_are_one():
    maps, gradient = random(2, 6, 9, 4), random(2, 6, 9, 5, seed=1)
    expected = program.kernel_gradient_by_convolution(maps, gradient)
    np.testing.assert_allclose(program.kernel_gradient_by_products(maps, gradient), expected, rtol=1e-4, atol=1e-4)


def test_every_forms_program_has_the_same_results_shapes(monkeypatch):
    monkeypatch.setattr(program, "SHAPE", (64, 96))
    parts = list(program.choices(1))
    assert len({choice.part for choice in parts}) == len(parts) >= 8
    for choice in parts:
        shapes = []
        for form in choice.forms.values():
            compiled, arguments = program.program_of(form, choice.arguments, choice.trained)
            shapes.append(jax.tree.map(lambda x: x.shape, jax.eval_shape(compiled, *arguments)))
        assert all(each == shapes[0] for each in shapes), choice.part


def test_only_what_is_trained_gets_a_gradient():
    function, arguments = program.program_of(jnp.multiply, (random(3), random(3, seed=1)), (1,))
    result, gradients = function(arguments[0], jnp.ones(3))
    np.testing.assert_array_equal(result, arguments[0][0] * arguments[0][1])
    assert len(gradients) == 1
    np.testing.assert_array_equal(gradients[0], arguments[0][0])


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"compile_choices: .*tpu-compile\]"):
        program.main([])


@pytest.mark.slow
def test_a_choice_is_weighed(capsys):
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu-compile]'")
    program.main(["--part", "gradient of a 3x3"])
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert header.count("|") == first.count("|") == second.count("|")
    assert "| gradient of a 3x3 kernel | convolution | 0." in first
