"""Operations counted from shapes, against arithmetic and against XLA's own count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from eegsr_jax.flop import flop

A, B = jnp.ones((64, 128)), jnp.ones((128, 32))
SQUARE = jnp.ones((16, 16))


def by_xla(function, *arguments):
    cost = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def convolution(groups):
    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=("NCH", "OIH", "NCH"),
            feature_group_count=groups,
        )

    return run


def test_a_product_is_two_operations_a_term():
    assert flop(jnp.matmul, A, B) == 2 * 64 * 128 * 32 == by_xla(jnp.matmul, A, B)
    assert flop(jnp.matmul, A.astype(jnp.complex64), B.astype(jnp.complex64)) == 8 * 64 * 128 * 32
    batched = jnp.ones((5, 64, 128))
    assert flop(lambda a, b: jnp.einsum("bij,jk->bik", a, b), batched, B) == 5 * flop(
        jnp.matmul, A, B
    )


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution(groups):
    x, kernel = jnp.ones((4, 8, 100)), jnp.ones((16, 8 // groups, 5))
    found = flop(convolution(groups), x, kernel)
    assert found == 2 * (4 * 16 * 96) * (8 // groups) * 5 == by_xla(convolution(groups), x, kernel)


def test_a_transform():
    assert flop(jnp.fft.fft, jnp.ones((10, 256), jnp.complex64)) == 10 * 5 * 256 * 8
    half = 10 * 2.5 * 256 * 8
    assert flop(jnp.fft.rfft, jnp.ones((10, 256))) == half
    assert flop(lambda x: jnp.fft.irfft(x, 256), jnp.ones((10, 129), jnp.complex64)) == half


def test_what_moves_numbers_or_counts_in_integers_is_nothing():
    def moves(x):
        order = jnp.arange(x.shape[0]) * 2 % 7
        return jnp.concatenate([x.T[:, order], jnp.zeros((1, x.shape[0]))])[::-1].reshape(-1)

    assert flop(moves, A[:5]) == 0


def test_a_loop_counts_as_often_as_it_runs():
    def looped(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ SQUARE), None), x, None, length=10)[0]

    each = 2 * 16**3 + 16**2
    assert flop(looped, SQUARE) == 10 * each
    assert by_xla(looped, SQUARE) < 2 * each  # why there is a count of our own
    assert flop(jax.vmap(looped), jnp.ones((3, 16, 16))) == 30 * each


def test_the_dearest_branch_counts():
    def either(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ SQUARE, lambda x: x, x)

    assert flop(either, SQUARE) == 2 * 16**3 + 16**2  # and the sum


def test_a_gradient_and_what_it_recomputes():
    def loss(a, b):
        return jnp.sum(jnp.tanh(a @ b) ** 2)

    product, slope = flop(jnp.matmul, A, B), jax.grad(loss, (0, 1))
    assert flop(slope, A, B) == pytest.approx(3 * product, rel=0.05)
    assert flop(slope, A, B) == pytest.approx(by_xla(slope, A, B), rel=0.05)

    @jax.custom_vjp
    def own(x):
        return jnp.sum(x @ SQUARE)

    own.defvjp(lambda x: (own(x), x), lambda x, g: (g * (x @ SQUARE) @ SQUARE,))
    assert flop(own, SQUARE) == 2 * 16**3 + 16**2
    assert flop(jax.grad(own), SQUARE) == pytest.approx(3 * 2 * 16**3, rel=0.1)


def test_of_a_shard_map_it_is_what_one_device_does():
    mesh = jax.make_mesh((4,), ("windows",), devices=jax.devices()[:4])
    spec = jax.sharding.PartitionSpec("windows")
    spread = jax.shard_map(jnp.tanh, mesh=mesh, in_specs=spec, out_specs=spec)
    lain = jax.device_put(A, jax.sharding.NamedSharding(mesh, spec))
    assert flop(spread, lain) == A.size / 4


def test_linear_algebra():
    assert flop(jnp.linalg.cholesky, SQUARE) == pytest.approx(16**3 / 3, rel=0.6)
    solve = jax.scipy.linalg.solve_triangular
    assert flop(solve, SQUARE, jnp.ones((16, 4))) == pytest.approx(16**2 * 4, rel=0.2)
    assert flop(jnp.linalg.eigvalsh, SQUARE) > 4 * 16**3
