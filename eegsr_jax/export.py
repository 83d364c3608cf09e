"""Methods as files that run without us: compiled by XLA wherever they are read, with JAX alone.

An export is a folder: `mean_std.bin`, and `draw.bin` of a method that draws, are StableHLO of

    (plan {name: array}, observed [b, L, t] float32 volts, keys [b, 2] uint32) -> mean, std or draws

for CPU, CUDA and TPU, of any batch, and of any length where the method allows, with first-order
gradients; `plan.safetensors` is their first argument; `card.json` says what they expect and return.
The plan is flat, as a safetensors file is, and of real numbers (a complex array has its parts along
a last axis of two), so a reader has no tree to build. Keys are the `key_data` of one key a window.

A deployment format, not an archive (`artefact.GUARANTEE`), and a program: run what you trust only.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.artefact import (
    MEAN_STD,
    PLAN,
    PLATFORMS,
    Electrode,
    ExportCard,
    Origin,
    Versions,
    listed,
    packed,
    read_card,
    read_files,
    refuse_existing,
    unpacked,
    write,
)
from eegsr_jax.diffusion.noise import keys_of
from eegsr_jax.errors import ConfigError, MethodError
from eegsr_jax.geometry import Geometry
from eegsr_jax.methods.base import Method, Reconstruction
from eegsr_jax.typing import PyTree

_DRAW = "draw.bin"
_DAYS = 182  # 6 months
_KEYS = "threefry2x32"  # JAX's default; a program is bound to one kind of keys


def export(
    method: Method,
    params: PyTree,
    geometry: Geometry,
    out: str | Path,
    *,
    origin: Origin | None = None,
    samples: int | None = None,
    overwrite: bool = False,
) -> ExportCard:
    """Write a method, planned, as the folder `out`, which appears when it is complete.

    Args:
      method: whose `apply`, and `draw` if any.
      params: its parameters.
      geometry: the electrodes to plan for; an export has no others.
      out: the folder.
      origin: for the card; None says the method's name and rate.
      samples: of a window, where the method must know, or None.
      overwrite: whether to replace an export that is there.

    Raises:
      ConfigError: `out` is there, `samples` is not what the method is bound to, or a mesh is set.
      MethodError: the method must know `samples`.
    """
    out = Path(out)
    refuse_existing(out, overwrite)
    if not jax.sharding.get_abstract_mesh().empty:
        raise ConfigError("a mesh is set, and a program would be bound to it; export outside of it")
    if samples is not None and (samples < 1 or (method.window or samples) != samples):
        expected = f"{method.window}, as the method is bound to" if method.window else "1 or more"
        raise ConfigError(f"samples={samples}: expected {expected}")
    plan = jax.jit(method.plan)(params, geometry)
    length = method.window or samples
    programs, arrays, calling = _programs(method, plan, len(geometry.observed), length)
    contents = programs | {PLAN: packed(arrays)}
    today = datetime.date.today()
    card = ExportCard(
        origin=origin or Origin(method=method.name, sfreq=method.sfreq),
        observed=_electrodes(geometry.observed_names, geometry.observed),
        target=_electrodes(geometry.target_names, geometry.target),
        samples=length,
        context=method.context,
        files=listed(contents),
        versions=_versions(calling),
        exported=today.isoformat(),
        export_again_by=(today + datetime.timedelta(days=_DAYS)).isoformat(),
    )
    write(out, card, contents)
    return card


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExportedMethod:
    """A method read from its files. A pytree, whose leaves are the plan.

    Within a program of yours, call it as an argument (`jax.jit(lambda m, x: m(x))(m, x)`): what a
    program closes over becomes part of it. `dataclasses.replace(m, plan=...)` changes the plan.

    Attributes:
      plan: `{name: array}`.
      card: what it expects and returns.
    """

    plan: dict[str, jax.Array]
    card: ExportCard = field(metadata={"static": True})
    _programs: tuple[tuple[str, Any], ...] = field(metadata={"static": True}, repr=False)

    def __call__(
        self, observed: jax.Array | np.ndarray, key: jax.Array | None = None
    ) -> Reconstruction:
        """`[batch, L, time]` to `[batch, M, time]`, as the method's `apply`.

        Raises:
          MethodError: wrong shape, type or key.
        """
        return Reconstruction(*self._run(MEAN_STD, observed, key))

    def draw(self, observed: jax.Array | np.ndarray, key: jax.Array | None = None) -> jax.Array:
        """What the missing channels may have been, as the method's `draw`.

        Raises:
          MethodError: wrong shape, type or key, or the method does not draw.
        """
        return self._run(_DRAW, observed, key)

    def _run(self, name: str, observed: Any, key: jax.Array | None) -> Any:
        programs = dict(self._programs)
        if name not in programs:
            raise MethodError(f"{self.card.origin.method} gives means only; call it, not its draw")
        observed = observed if isinstance(observed, jax.Array) else np.asarray(observed)
        self._check(observed, key)
        keys = jax.random.key_data(keys_of(key, observed))
        return programs[name].call(self.plan, observed, keys)

    def _check(self, x: jax.Array | np.ndarray, key: jax.Array | None) -> None:
        card, inputs = self.card, len(self.card.observed)
        fits = x.ndim == 3 and 0 not in x.shape and x.shape[1] == inputs
        if not fits or card.samples not in (None, x.shape[2]):
            names = [e.name for e in card.observed[:6]] + ["…"] * (inputs > 6)
            raise MethodError(
                f"observed is {list(x.shape)}; expected [batch, {inputs}, {card.samples or 'time'}]"
                f", the channels {', '.join(names)}"
            )
        if x.dtype != np.float32:
            raise MethodError(f"observed is {x.dtype}; expected float32, in {card.origin.unit}")
        kind, shape = getattr(key, "dtype", type(key).__name__), getattr(key, "shape", ())
        right = jax.eval_shape(lambda: jax.random.key(0, impl=_KEYS)).dtype
        if key is not None and (kind != right or shape not in ((), x.shape[:1])):
            raise MethodError(
                f"key is {kind}{list(shape)}; expected jax.random.key(…, impl={_KEYS!r}), or one a "
                "window"
            )


def load_exported(path: str | Path) -> ExportedMethod:
    """The method in a folder that `export` made. It holds programs: load what you trust only.

    Raises:
      ConfigError: no export, a changed or damaged one, of a newer format, or of another time than
        this jax reads.
    """
    from jax import export as jax_export

    path = Path(path)
    card = read_card(path)
    first, last = (
        jax_export.minimum_supported_calling_convention_version,
        jax_export.maximum_supported_calling_convention_version,
    )
    made, here = card.versions, f"this is jax {jax.__version__}"
    if not first <= made.calling_convention <= last:
        age = "old" if made.calling_convention < first else "new"
        raise ConfigError(
            f"{path}: too {age}: jax {made.jax} wrote it in calling convention "
            f"{made.calling_convention}, {here}, which reads {first} to {last}; export the run "
            "again with this jax"
        )
    contents = read_files(path, card)
    plan = {name: jnp.asarray(x) for name, x in unpacked(contents.pop(PLAN)).items()}
    programs = []
    try:
        for name, data in contents.items():
            program = jax_export.deserialize(bytearray(data))
            if made.jax != jax.__version__:
                program.mlir_module()  # else the first call would find out, in many lines
            programs.append((name, program))
    except Exception as error:  # of XLA, or of what the file is packed with
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{path}: jax {made.jax} wrote it on {card.exported}, {here}, which cannot read it "
            f"({reason}); export the run again with this jax"
        ) from error
    return ExportedMethod(plan, card, tuple(programs))


# -------------------------------------------------------------------------------------- programs


def _programs(
    method: Method, plan: PyTree, inputs: int, samples: int | None
) -> tuple[dict[str, bytes], dict[str, np.ndarray], int]:
    """Serialised programs by their files, the plan that they take, their calling convention."""
    from jax import export as jax_export

    leaves, structure = jax.tree.flatten_with_path(plan)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    is_complex = {n for n, (_, x) in zip(names, leaves, strict=True) if jnp.iscomplexobj(x)}
    arrays = {
        n: np.stack([x.real, x.imag], -1) if n in is_complex else np.asarray(x)
        for n, (_, x) in zip(names, leaves, strict=True)
    }

    def planned(flat: Mapping[str, jax.Array]) -> PyTree:
        found = [
            jax.lax.complex(flat[n][..., 0], flat[n][..., 1]) if n in is_complex else flat[n]
            for n in names
        ]
        return jax.tree.unflatten(structure, found)

    # Typed keys would do, but count as used twice under `jax_debug_key_reuse` in a gradient.
    def arguments_of(flat, x, data):
        return planned(flat), x, jax.random.wrap_key_data(data, impl=_KEYS)

    functions: dict[str, Callable[..., Any]] = {
        MEAN_STD: lambda *given: tuple(method.apply(*arguments_of(*given)))
    }
    if (draw := method.draw) is not None:
        functions[_DRAW] = lambda *given: draw(*arguments_of(*given))
    batch, time = jax_export.symbolic_shape("b, t")
    arguments = (
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()},
        jax.ShapeDtypeStruct((batch, inputs, samples or time), jnp.float32),
        jax.ShapeDtypeStruct((batch, 2), jnp.uint32),
    )
    done, calling = {}, 0
    for name, function in functions.items():
        try:
            program = jax_export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        except Exception as error:  # which one depends on the operation that must know
            if samples is not None:
                raise
            raise MethodError(
                f"{method.name} must know the number of samples of a window when it is exported "
                f"({str(error).partition(chr(10))[0]}); give samples=N (--samples=N)"
            ) from error
        done[name] = bytes(program.serialize(vjp_order=1))
        calling = program.calling_convention_version
    return done, arrays, calling


def _versions(calling: int) -> Versions:
    from jaxlib.version import __version__ as jaxlib_version

    from eegsr_jax import __version__

    return Versions(
        eegsr_jax=__version__,
        jax=jax.__version__,
        jaxlib=jaxlib_version,
        calling_convention=calling,
    )


def _electrodes(names: tuple[str, ...], positions: jax.Array) -> tuple[Electrode, ...]:
    places = np.asarray(positions, float).tolist()
    return tuple(
        Electrode(name=name, position=(x, y, z))
        for name, (x, y, z) in zip(names or [""] * len(places), places, strict=True)
    )
