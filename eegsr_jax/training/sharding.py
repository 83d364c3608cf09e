"""How the params of a `GradientStage` lie on a mesh, and which meshes fit it."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from eegsr_jax.distributed import GAUSSIANS, WINDOWS, along
from eegsr_jax.errors import MethodError
from eegsr_jax.methods.base import GradientStage
from eegsr_jax.typing import PyTree


def specs(stage: GradientStage, tree: PyTree, mesh: Mesh) -> PyTree:
    """How params, or a `State` of them, lie on a mesh: what has points over "gaussians"."""

    def one(path, leaf):
        del leaf
        at = _axis_of_points(stage, path)
        return PartitionSpec() if at is None else along(mesh, GAUSSIANS, at)

    return jax.tree_util.tree_map_with_path(one, tree)


def _axis_of_points(stage: GradientStage, path: Any) -> int | None:
    """An optimiser keeps its memory under the names of the params, so that they tell in it too."""
    name = f"/{jax.tree_util.keystr(path, simple=True, separator='/')}/"
    return next((axis for entry, axis in stage.points if f"/{entry}/" in name), None)


def check_mesh(stage: GradientStage, params: PyTree, mesh: Mesh, axes: tuple[str, ...]) -> None:
    """Refuse a mesh over which a stage cannot be spread evenly.

    Raises:
      MethodError: an axis that is not of `axes`, or a batch or points that do not divide.
    """
    for axis, size in mesh.shape.items():
        if axis not in axes:
            raise MethodError(
                f"{stage.name}: the mesh has an axis {axis!r}; expected some of {', '.join(axes)}"
            )
        if axis == WINDOWS and stage.batch_size % size:
            raise MethodError(
                f"{stage.name}: a batch of {stage.batch_size} windows does not divide among {size} "
                "devices; choose another batch_size or mesh"
            )
        if axis != GAUSSIANS:
            continue
        if not stage.points:
            raise MethodError(
                f"{stage.name}: has no Gaussians to spread over the axis {GAUSSIANS!r} of the mesh"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            at = _axis_of_points(stage, path)
            if at is not None and leaf.shape[at] % size:
                raise MethodError(
                    f"{stage.name}: {leaf.shape[at]} points do not divide among {size} devices; "
                    "choose another resolution (an even one has a multiple of 8 points) or mesh"
                )
