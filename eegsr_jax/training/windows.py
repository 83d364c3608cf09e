"""From a store and a layout to what a method trains on: channels, geometry, labelled windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from eegsr_jax import layouts as ly
from eegsr_jax.data.pipeline import pipeline
from eegsr_jax.data.segments import Segment
from eegsr_jax.data.store import Store
from eegsr_jax.errors import DatasetError
from eegsr_jax.geometry import Geometry, make_geometry
from eegsr_jax.methods.moments import TRAIN, VALIDATE


def shared_channels(store: Store, segments: Iterable[Segment]) -> tuple[str, ...]:
    """Channels that all recordings of the segments have, bad in none, in the first one's order.

    Raises:
      DatasetError: there are fewer than four.
    """
    used = [store.recording(key) for key in dict.fromkeys(s.key for s in segments)]
    bad = {name for recording in used for name in recording.bads}
    shared = set.intersection(*(set(recording.names) for recording in used)) - bad
    if len(shared) < 4:
        raise DatasetError(
            f"{store.path}: {len(used)} recordings share {len(shared)} good channels (bad in at "
            f"least one: {', '.join(sorted(bad)) or 'none'}); leave recordings out"
        )
    return tuple(name for name in used[0].names if name in shared)


def layout_geometry(
    store: Store, segments: Sequence[Segment], channels: Sequence[str], spec: str
) -> Geometry:
    """The geometry of the layout `spec` (see `layouts.layout`), positions of the first recording.

    "best:k" chooses by the covariance of `segments`, which must be training data.
    """
    first = store.recording(segments[0].key)
    positions = dict(zip(first.names, first.positions, strict=True))
    covariance = None
    if spec.startswith("best"):
        covariance = np.zeros((len(channels), len(channels)))
        for segment in segments:
            x = store.read(segment.key, segment.start, segment.stop)
            x = x[store.recording(segment.key).channel_index(tuple(channels))].astype(np.float64)
            covariance += x @ x.T
    observed = ly.layout(
        spec, channels, positions=np.stack([positions[n] for n in channels]), covariance=covariance
    )
    return make_geometry(observed, channels, {n: positions[n] for n in channels})


def training_windows(
    store: Store,
    train: Sequence[Segment],
    validate: Sequence[Segment],
    *,
    window: int,
    batch_size: int,
    channels: Sequence[str],
) -> Iterator[dict[str, np.ndarray]]:
    """One pass: `{"eeg": [batch, channel, window], "part": [batch]}`, validation windows last."""
    for part, segments in ((TRAIN, train), (VALIDATE, validate)):
        if not segments:
            continue
        for batch in pipeline(
            store, segments, window=window, batch_size=batch_size, channels=channels
        ):
            count = len(batch["eeg"])
            yield {"eeg": batch["eeg"], "part": np.full(count, part, np.int32)}
