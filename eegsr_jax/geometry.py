"""Electrodes: names, positions, the head sphere, and the `Geometry` that every method plans on.

Positions are in metres in the MNE head frame (x right, y front, z up). Sources: the standard
templates and file readers are MNE-Python's; the sphere is the linear least-squares fit of
centre and radius to |p - c|^2 = r^2, without the points on the face, which is MNE's rule too.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eegsr_jax.errors import ChannelError

# ----------------------------------------------------------------------------------------- names

_PREFIXES = (
    "Nz N Fp AFp AF AFF F FFT FFC FT FC FTT FCC T C TTP CCP TP CP TPP CPP P PPO PO POO O OI I A M "
    "CB"
)
_CANONICAL = {prefix.lower(): prefix for prefix in _PREFIXES.split()}
_NAME = re.compile(r"^([a-z]+?)(z|\d{1,2})(h?)$", re.IGNORECASE)
# The 10-20 system's first edition called these electrodes T3..T6 (Jasper 1958; renamed 1991).
_OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}


def standard_name(name: str) -> str:
    """The 10-05 spelling of a channel name, or the stripped name where it has none.

    Case, dots, an "EEG " prefix, a reference suffix and the old names T3..T6 are mended:
    "Fc5." and "EEG FC5-REF" are both "FC5".
    """
    bare = name.strip().rstrip(".").strip()
    bare = re.sub(r"^EEG[ _-]+(?=[A-Za-z])", "", bare, flags=re.IGNORECASE)
    bare = re.sub(r"[-_ ](REF|LE|AR|AVG|A1A2|M1M2)$", "", bare, flags=re.IGNORECASE)
    match = _NAME.match(bare)
    if match is None or match.group(1).lower() not in _CANONICAL:
        return bare
    standard = _CANONICAL[match.group(1).lower()] + match.group(2).lower() + match.group(3).lower()
    return _OLD_NAMES.get(standard, standard)


def find_channels(wanted: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Places of `wanted` in `names`, [len(wanted)] int32, matched by standard name.

    Raises:
      ChannelError: a wanted name is absent or asked for twice.
    """
    place = {standard_name(n).lower(): i for i, n in enumerate(names)}
    absent = [w for w in wanted if standard_name(w).lower() not in place]
    if absent:
        close = difflib.get_close_matches(absent[0], list(names), n=3, cutoff=0.5)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ChannelError(
            f"channel{'s' if len(absent) > 1 else ''} {', '.join(absent)} not among the "
            f"{len(names)} channels {_some(names)}{hint}"
        )
    index = [place[standard_name(w).lower()] for w in wanted]
    if len(set(index)) < len(index):
        twice = sorted({w for i, w in enumerate(wanted) if index.count(index[i]) > 1})
        raise ChannelError(f"channel {', '.join(twice)} is named twice; name each channel once")
    return np.asarray(index, np.int32)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"({shown}, …)" if len(names) > 6 else f"({shown})"


# ------------------------------------------------------------------------------------- positions


def montage(source: Any) -> dict[str, np.ndarray]:
    """Electrode positions by name: {name: [3] metres, MNE head frame}.

    Args:
      source: the name of a montage that ships with MNE ("standard_1005", "biosemi64", …), a
        montage file (any that MNE reads, or a BIDS `electrodes.tsv` in metres), an MNE
        `DigMontage`, or a mapping from names to positions.

    Raises:
      ChannelError: no such montage or file, or positions that are not finite.
    """
    if isinstance(source, Mapping):
        positions = {str(k): np.asarray(v, float) for k, v in source.items()}
        label = "the mapping"
    elif isinstance(source, str | Path):
        positions = _montage_by_name(str(source))
        label = f"montage {str(source)!r}"
    else:
        positions, label = _from_dig(source), "the DigMontage"
    for name, xyz in positions.items():
        if xyz.shape != (3,) or not np.isfinite(xyz).all():
            raise ChannelError(
                f"{label}: position of {name} is {xyz.tolist()}; expected three finite metres"
            )
    if positions:
        radius = float(np.median([np.linalg.norm(p) for p in positions.values()]))
        if not 0.02 < radius < 0.5:
            raise ChannelError(
                f"{label}: median distance of the electrodes from the origin is {radius:.3g} m; "
                "a head is about 0.1 m: give positions in metres"
            )
    return positions


def _montage_by_name(name: str) -> dict[str, np.ndarray]:
    import mne

    # MNE 1.13 renamed the standard_ templates (same coordinates): accept both names everywhere,
    # and ask for the new one first, since the old one warns.
    known = mne.channels.get_builtin_montages()
    stem = name.removeprefix("standard_").removeprefix("colin27_")
    twins = [f"{family}_{stem}" for family in ("colin27", "standard")]
    built_in = next((n for n in (twins if name in twins else [name]) if n in known), None)
    if built_in is not None:
        return {n: xyz.copy() for n, xyz in _built_in_montage(built_in)}
    path = Path(name)
    if not path.is_file():
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ChannelError(
            f"montage {name!r} is neither a file nor one of MNE's {len(known)} montages{hint}"
        )
    if path.suffix == ".tsv":
        return _read_tsv(path)
    try:
        return _from_dig(mne.channels.read_custom_montage(path))
    except Exception as error:  # MNE raises many kinds; the user needs one line with the file
        raise ChannelError(f"montage file {path}: {error}") from error


@functools.lru_cache(maxsize=16)
def _built_in_montage(name: str) -> tuple[tuple[str, np.ndarray], ...]:
    import mne

    return tuple(_from_dig(mne.channels.make_standard_montage(name)).items())


def _from_dig(dig: Any) -> dict[str, np.ndarray]:
    import mne

    if not isinstance(dig, mne.channels.DigMontage):
        raise ChannelError(
            f"montage is a {type(dig).__name__}; expected a montage name, a file, a DigMontage "
            "or a mapping from names to positions"
        )
    fiducials = dig.get_positions()
    if all(fiducials[k] is not None for k in ("nasion", "lpa", "rpa")):
        dig = mne.channels.montage.transform_to_head(dig)
    found = dig.get_positions()["ch_pos"]
    return {name: np.asarray(xyz, float) for name, xyz in found.items()}


def _read_tsv(path: Path) -> dict[str, np.ndarray]:
    lines = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    header, rows = (lines or [[]])[0], lines[1:]
    columns = {c.strip().lower(): i for i, c in enumerate(header)}
    if not {"name", "x", "y", "z"} <= set(columns):
        raise ChannelError(f"{path}: columns are {header}; expected name, x, y, z (metres)")
    out = {}
    for row in rows:
        row = row + [""] * (len(header) - len(row))
        name = row[columns["name"]].strip()
        cells = [row[columns[axis]].strip() for axis in "xyz"]
        if "n/a" in cells:
            continue
        try:
            out[name] = np.array([float(c) for c in cells])
        except ValueError:
            raise ChannelError(f"{path}: position of {name} is {cells}; expected numbers") from None
    return out


def fit_sphere(positions: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre `[3]` and radius (metres) of the sphere nearest to `[channel, 3]` positions.

    Points on the face (below and in front of the origin) are left out, as MNE does.

    Raises:
      ChannelError: fewer than four points, or points that do not determine a sphere.
    """
    points = np.asarray(positions, float)
    scalp = points[~((points[:, 2] < -1e-6) & (points[:, 1] > 1e-6))]
    points = scalp if len(scalp) >= 4 else points
    if len(points) < 4:
        raise ChannelError(f"{len(points)} electrodes cannot fix a head sphere; at least 4 needed")
    design = np.c_[2 * points, np.ones(len(points))]
    if np.linalg.matrix_rank(design - design.mean(0) * [1, 1, 1, 0], tol=1e-6) < 4:
        raise ChannelError("the electrodes lie in one plane: they do not fix a head sphere")
    solution = np.linalg.lstsq(design, (points**2).sum(1), rcond=1e-6)[0]
    return solution[:3], float(np.sqrt(solution[:3] @ solution[:3] + solution[3]))


# -------------------------------------------------------------------------------------- geometry


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the given electrodes are, and where the wanted ones are. A pytree.

    Attributes:
      observed: `[L, 3]` metres, head frame.
      target: `[M, 3]` metres, head frame.
      observed_index: `[L]` int32, place of each observed channel among the targets, -1 if absent.
      centre: `[3]` metres, centre of the head sphere that both sets of directions start from.
      observed_names, target_names: static.
    """

    observed: jax.Array
    target: jax.Array
    observed_index: jax.Array
    centre: jax.Array
    observed_names: tuple[str, ...] = field(default=(), metadata={"static": True})
    target_names: tuple[str, ...] = field(default=(), metadata={"static": True})


def make_geometry(
    observed_names: Sequence[str],
    target_names: Sequence[str],
    positions: Mapping[str, np.ndarray],
    *,
    centre: np.ndarray | None = None,
) -> Geometry:
    """The `Geometry` of named channels.

    Args:
      observed_names: L names of the given channels.
      target_names: M names of the wanted channels, in the order of the output.
      positions: position of every one of them, metres, MNE head frame (see `montage`).
      centre: `[3]` metres; None fits the head sphere to all of `positions`.

    Raises:
      ChannelError: a name without a position, named twice, two electrodes in one place, fewer
        than 4 observed channels, or electrodes on no sphere.
    """
    table = {standard_name(k).lower(): np.asarray(v, float) for k, v in positions.items()}
    if len(observed_names) < 4:
        raise ChannelError(
            f"{len(observed_names)} observed channels {_some(observed_names)}; at least 4 needed "
            "to tell a scalp field from its reference"
        )
    where = {}
    for role, names in (("observed", observed_names), ("target", target_names)):
        keys = [standard_name(n).lower() for n in names]
        if len(set(keys)) < len(keys):
            twice = sorted({n for n, k in zip(names, keys, strict=True) if keys.count(k) > 1})
            raise ChannelError(f"{role} channel {', '.join(twice)} is named twice")
        absent = [n for n, k in zip(names, keys, strict=True) if k not in table]
        if absent:
            raise ChannelError(
                f"{role} channel{'s' if len(absent) > 1 else ''} {', '.join(absent)} without a "
                "position; give a montage that has them"
            )
        where[role] = np.stack([table[k] for k in keys])
        lost = [n for n, xyz in zip(names, where[role], strict=True) if not np.isfinite(xyz).all()]
        if lost:
            raise ChannelError(
                f"position of {role} channel {lost[0]} is {table[standard_name(lost[0]).lower()]}; "
                "expected three finite metres"
            )
        _refuse_coincident(where[role], names, role)
    if centre is None:
        centre = fit_sphere(np.stack(list(table.values())))[0]
    place = {standard_name(n).lower(): i for i, n in enumerate(target_names)}
    index = [place.get(standard_name(n).lower(), -1) for n in observed_names]
    return Geometry(
        observed=jnp.asarray(where["observed"], jnp.float32),
        target=jnp.asarray(where["target"], jnp.float32),
        observed_index=jnp.asarray(index, jnp.int32),
        centre=jnp.asarray(centre, jnp.float32),
        observed_names=tuple(observed_names),
        target_names=tuple(target_names),
    )


def _refuse_coincident(positions: np.ndarray, names: Sequence[str], role: str) -> None:
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    pairs = np.argwhere(np.triu(distance < 1e-4, 1))  # a tenth of a millimetre
    if len(pairs):
        a, b = names[pairs[0, 0]], names[pairs[0, 1]]
        raise ChannelError(
            f"{role} channels {a} and {b} have the same position "
            f"{positions[pairs[0, 0]].round(4).tolist()} m; correct the montage or drop one"
        )


def to_json(geometry: Geometry) -> dict[str, Any]:
    """Plain lists and names, for `geometry.json`."""
    arrays = {k: np.asarray(getattr(geometry, k)).tolist() for k in _ARRAYS}
    return arrays | {
        "observed_names": list(geometry.observed_names),
        "target_names": list(geometry.target_names),
    }


def from_json(values: Mapping[str, Any]) -> Geometry:
    """The inverse of `to_json`."""
    index = jnp.asarray(values["observed_index"], jnp.int32)
    arrays = {k: jnp.asarray(values[k], jnp.float32) for k in _ARRAYS if k != "observed_index"}
    return Geometry(
        **arrays,
        observed_index=index,
        observed_names=tuple(values["observed_names"]),
        target_names=tuple(values["target_names"]),
    )


_ARRAYS = ("observed", "target", "observed_index", "centre")

# --------------------------------------------------------------------------------- on the sphere


def directions(positions: jax.Array, centre: jax.Array) -> jax.Array:
    """Unit vectors `[channel, 3]` from `centre` to `positions`."""
    offset = positions - centre[None]
    return offset / jnp.linalg.norm(offset, axis=-1, keepdims=True)


def cosines(a: jax.Array, b: jax.Array, centre: jax.Array) -> jax.Array:
    """Cosines `[A, B]` of the angles between electrodes seen from `centre`, within [-1, 1]."""
    product = jnp.matmul(directions(a, centre), directions(b, centre).T, precision="highest")
    return jnp.clip(product, -1.0, 1.0)


def nearest_angle(geometry: Geometry) -> np.ndarray:
    """Great-circle angle `[M]`, degrees, from each target to the nearest observed electrode."""
    with jax.enable_x64(True):  # arccos loses half its digits near 1
        a, b, c = (
            jnp.asarray(x, jnp.float64)
            for x in (geometry.target, geometry.observed, geometry.centre)
        )
        return np.degrees(np.asarray(jnp.arccos(cosines(a, b, c)).min(1)))


def legendre_sum(
    x: jax.Array, coefficients: jax.Array, ratio: jax.Array | None = None
) -> jax.Array:
    """Sum over n = 1..N of c_n r^n P_n(x), by the three-term recurrence.

    Args:
      x: cosines, any shape.
      coefficients: `[N]`, for n = 1..N.
      ratio: r, same shape as `x`; None means 1.

    Returns:
      The sum, with the shape of `x`.
    """
    ratio = jnp.ones_like(x) if ratio is None else ratio
    degrees = jnp.arange(1, coefficients.shape[0] + 1, dtype=x.dtype)

    def step(carry, degree_and_coefficient):
        before, now, power, total = carry  # P_(n-1), P_n, r^(n-1), the sum so far
        n, c = degree_and_coefficient
        power = power * ratio
        total = total + c * power * now
        after = ((2 * n + 1) * x * now - n * before) / (n + 1)
        return (now, after, power, total), None

    start = (jnp.ones_like(x), x, jnp.ones_like(x), jnp.zeros_like(x))
    (_, _, _, total), _ = jax.lax.scan(step, start, (degrees, coefficients.astype(x.dtype)))
    return total
