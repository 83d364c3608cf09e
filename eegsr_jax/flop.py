"""Floating-point operations of a JAX function, counted without compiling or running it.

XLA's own count takes the body of a loop once, however often it runs; this one takes a `scan` as
often as it is long, and so counts a sampler or a renderer that goes over its points in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

_NOTHING = """broadcast_in_dim reshape squeeze transpose concatenate slice dynamic_slice
dynamic_update_slice gather scatter rev pad convert_element_type select_n copy copy_p iota
stop_gradient pvary pcast real imag complex sharding_constraint device_put optimization_barrier
expand_dims split bitcast_convert_type reshard all_gather pbroadcast""".split()


def flop(function: Callable[..., Any], *arguments: Any) -> float:
    """Operations on floating-point numbers of one call.

    A multiplication and an addition are two, an exponential is one; what moves numbers or counts in
    integers is none. Of a `while` whose length is not known the body counts once, of a `cond` the
    dearest branch. In a `shard_map` it is what one device does.

    Args:
      function: of arrays; is traced.
      arguments: arrays, or `jax.ShapeDtypeStruct`s.
    """
    return flop_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def flop_of(jaxpr: Jaxpr) -> float:
    """The same of what was traced already."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return params["length"] * flop_of(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(flop_of(branch.jaxpr) for branch in params["branches"])
    if name.startswith("custom_") and "fwd_jaxpr_thunk" in params:
        return flop_of(params["call_jaxpr"].jaxpr)
    inner = [x for value in params.values() for x in _jaxprs(value)]
    if inner and not name.startswith(("reduce", "scatter", "select_and", "arg", "cum")):
        return sum(map(flop_of, inner))
    inputs = [x.aval for x in equation.invars]
    output = equation.outvars[0].aval
    kind = output.dtype if hasattr(output, "dtype") else jnp.dtype("int32")
    if name in _NOTHING or not jnp.issubdtype(kind, jnp.inexact):
        return 0.0
    twice = jnp.issubdtype(kind, jnp.complexfloating)
    shape = inputs[0].shape if inputs else output.shape
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return (8 if twice else 2) * output.size * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, out_axis = inputs[1].shape, params["dimension_numbers"].rhs_spec[0]
        return 2 * output.size * math.prod(kernel) / kernel[out_axis]
    if name == "fft":
        length = math.prod(params["fft_lengths"])
        real = 0.5 if "RFFT" in params["fft_type"].name else 1.0
        times = max(math.prod(shape), output.size) / max(shape[-1], output.shape[-1])
        return real * 5 * times * length * math.log2(max(length, 2))
    if name in ("cholesky", "triangular_solve", "eigh", "lu"):
        side, batch = inputs[0].shape[-1], math.prod(inputs[0].shape[:-2])
        if name == "triangular_solve":
            return side * math.prod(inputs[1].shape)
        return batch * side**3 * {"cholesky": 1 / 3, "eigh": 9.0, "lu": 2 / 3}[name]
    if name in ("mul", "div", "integer_pow") and twice:
        return 6 * output.size
    gathers = name.startswith(("reduce", "arg", "cum")) or name in ("psum", "scatter-add")
    return (2 if twice else 1) * (math.prod(shape) if gathers else output.size)


def _jaxprs(value: Any) -> list[Jaxpr]:
    """Those in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [x for item in value for x in _jaxprs(item)] if isinstance(value, tuple | list) else []
