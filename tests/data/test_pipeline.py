"""The pipeline: the right windows in the right order, on every process, after every restart."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eegsr_jax.data.datasets.base import Dataset, Entry
from eegsr_jax.data.manifest import StoredRecording
from eegsr_jax.data.pipeline import RandomLayouts, device_prefetch, pipeline, window_index
from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.data.recording import Recording
from eegsr_jax.data.segments import Segment, whole
from eegsr_jax.data.splits import chronological
from eegsr_jax.data.store import Store, prepare
from eegsr_jax.errors import ChannelError, ConfigError, DatasetError, SplitError


@pytest.fixture
def store(make_store, make_recording):
    """Three recordings of different lengths, one with a hole, one with other channel order."""
    return make_store(
        [
            make_recording(500, subject="1"),
            make_recording(333, subject="2", unusable=[(100, 105)]),
            make_recording(250, subject="3", names=("Oz", "Pz", "Cz", "Fz", "C3")),
        ]
    )


def segments_of(store) -> tuple[Segment, ...]:
    return tuple(map(whole, store.recordings))


def collect(dataset) -> dict[str, np.ndarray]:
    """All batches joined."""
    batches = list(dataset)
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def pairs(batches) -> list[tuple[int, int]]:
    return [
        (int(r), int(s)) for b in batches for r, s in zip(b["recording"], b["start"], strict=True)
    ]


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def described(usable: np.ndarray) -> Store:
    """A store with a manifest only: one recording "k"."""
    recording = StoredRecording(
        key="k",
        subject="1",
        session="1",
        run="1",
        label=None,
        sfreq=100.0,
        samples=len(usable),
        names=("Fz",),
        positions=np.zeros((1, 3)),
        bads=(),
        usable=_runs(usable),
        reference="native",
        source="array",
        source_sha256=None,
        sha256="",
        notes=(),
    )
    return Store(
        path=Path("STORE"),
        dataset="made",
        licence="",
        citation="",
        preprocessing=PREPROCESSING["none"],
        recordings=(recording,),
        complete=True,
    )


def _runs(usable: np.ndarray) -> tuple[tuple[int, int], ...]:
    groups = itertools.groupby(range(len(usable)), key=lambda i: bool(usable[i]))
    runs = [(key, list(own)) for key, own in groups]
    return tuple((own[0], own[-1] + 1) for key, own in runs if key)


# --- window_index ------------------------------------------------------------------------------


def test_window_index_by_hand(store):
    segments = (
        Segment(store.recordings[1].key, 5, 333),
        Segment(store.recordings[0].key, 450, 500),
    )
    index = window_index(store, segments, window=50)
    assert index.dtype == np.int64
    assert index.tolist() == [[1, 5], [1, 105], [1, 155], [1, 205], [1, 255], [0, 450]]
    strided = window_index(store, segments[1:], window=40, stride=5)
    assert strided.tolist() == [[0, 450], [0, 455], [0, 460]]


@given(
    usable=st.lists(st.booleans(), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True).map(sorted),
    window=st.integers(1, 12),
    stride=st.none() | st.integers(1, 15),
)
@settings(max_examples=300, deadline=None)
def test_window_index_equals_walking(usable, cuts, window, stride):
    """Brute force: walk sample by sample; a window begins where `window` usable samples follow."""
    usable = np.array(usable)
    store = described(usable)
    start, stop = min(cuts[0], len(usable) - 1), min(cuts[1], len(usable))
    expected, t = [], start
    while t + window <= stop:
        bad = np.flatnonzero(~usable[t : t + window])
        if len(bad):
            t += int(bad[0]) + 1  # restart behind the first unusable sample
        else:
            expected.append([0, t])
            step = window if stride is None else stride
            gap = np.flatnonzero(~usable[t : t + step])  # a stride may jump over a hole
            t += int(gap[0]) + 1 if len(gap) else step
    if start < stop and expected:
        found = window_index(store, [Segment("k", start, stop)], window=window, stride=stride)
        assert found.tolist() == expected
        for _, first in found:
            assert usable[first : first + window].all()
            assert start <= first and first + window <= stop
    else:
        with pytest.raises(SplitError):
            window_index(store, [Segment("k", start, stop)], window=window, stride=stride)


def test_window_index_refuses(store):
    with pytest.raises(SplitError, match="no window of 501 usable samples fits in the 4 usable"):
        window_index(store, segments_of(store), window=501)
    with pytest.raises(SplitError, match="no window of 5 usable samples fits in the 0 usable"):
        window_index(store, [], window=5)
    with pytest.raises(SplitError, match="no recording sub-9, which a segment names"):
        window_index(store, [Segment("sub-9", 0, 10)], window=5)
    with pytest.raises(SplitError, match="stop=501.: the recording has 500 samples"):
        window_index(store, [Segment(store.recordings[0].key, 0, 501)], window=5)
    for window, stride in ((0, None), (5, 0), (5, -1)):
        with pytest.raises(ConfigError, match="give 1 sample or more"):
            window_index(store, segments_of(store), window=window, stride=stride)


# --- batches -----------------------------------------------------------------------------------


def test_every_window_once_in_order_with_its_own_samples(store):
    names = ("Fz", "Cz", "Pz", "Oz")
    dataset = pipeline(store, segments_of(store), window=32, batch_size=7, channels=names)
    batches = list(dataset)
    index = window_index(store, segments_of(store), window=32)
    assert pairs(batches) == [tuple(row) for row in index.tolist()]
    assert [len(b["eeg"]) for b in batches] == [7] * (len(index) // 7) + [len(index) % 7]
    for batch in batches:
        assert {k: (v.dtype, v.ndim) for k, v in batch.items()} == {
            "eeg": (np.float32, 3),
            "recording": (np.int32, 1),
            "start": (np.int32, 1),
        }
        for eeg, number, start in zip(*batch.values(), strict=True):
            recording = store.recordings[number]
            whole_recording = store.read(recording.key)[recording.channel_index(names)]
            np.testing.assert_array_equal(eeg, whole_recording[:, start : start + 32])


def test_channels_in_the_order_asked_for(store):
    """Channel `c` of a recording holds 1000 t + c, so values tell where they come from."""
    dataset = pipeline(store, segments_of(store), window=10, batch_size=1000, channels=["Pz", "Fz"])
    (batch,) = dataset
    place = batch["eeg"][:, :, 0] - 1000.0 * batch["start"][:, None]
    expected = {0: [2, 0], 1: [2, 0], 2: [1, 3]}
    np.testing.assert_array_equal(place, [expected[int(r)] for r in batch["recording"]])


def test_all_channels_by_default(store):
    (batch,) = pipeline(store, segments_of(store)[:2], window=10, batch_size=1000)
    np.testing.assert_array_equal(batch["eeg"][0], store.read(store.recordings[0].key, 0, 10))
    assert batch["eeg"].flags.c_contiguous and batch["eeg"].flags.writeable


def test_shuffling(store):
    segments = segments_of(store)[:2]
    plain = pairs(pipeline(store, segments, window=8, batch_size=5))
    options = {"window": 8, "batch_size": 5, "shuffle": True}
    one = pairs(pipeline(store, segments, **options, seed=1, epochs=3))
    assert one == pairs(pipeline(store, segments, **options, seed=1, epochs=3))
    assert one != pairs(pipeline(store, segments, **options, seed=2, epochs=3))
    epochs = [one[i * len(plain) : (i + 1) * len(plain)] for i in range(3)]
    assert all(sorted(epoch) == sorted(plain) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, plain]}) == 4


def test_endless_batches_are_all_full(store):
    segments = segments_of(store)[:2]
    dataset = pipeline(store, segments, window=100, batch_size=6, shuffle=True, epochs=None)
    batches = list(itertools.islice(dataset, 20))
    assert all(len(b["eeg"]) == 6 for b in batches)
    assert len(window_index(store, segments, window=100)) == 8
    counts = np.unique(pairs(batches), axis=0, return_counts=True)[1]
    assert counts.tolist() == [15] * 8  # 120 windows are 15 epochs of 8


def test_drop_remainder(store):
    segments = segments_of(store)[:2]
    sizes = [
        len(b["eeg"])
        for b in pipeline(store, segments, window=100, batch_size=5, drop_remainder=True)
    ]
    assert sizes == [5]
    with pytest.raises(SplitError, match="8 windows for each of 1 processes do not fill one batch"):
        pipeline(store, segments, window=100, batch_size=9, drop_remainder=True)


@pytest.mark.parametrize("threads", [0, 2])
def test_threads_change_nothing(store, threads):
    options = {"window": 16, "batch_size": 4, "shuffle": True, "epochs": 2}
    segments = segments_of(store)[:2]
    assert_same(
        list(pipeline(store, segments, **options)),
        list(pipeline(store, segments, **options, threads=threads)),
    )


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_processes_share_the_windows(store, shuffle, drop_remainder):
    segments = segments_of(store)[:2]
    total = pairs(pipeline(store, segments, window=9, batch_size=4))
    shares = [
        list(
            pipeline(
                store,
                segments,
                window=9,
                batch_size=4,
                shuffle=shuffle,
                process_index=i,
                process_count=3,
                drop_remainder=drop_remainder,
            )
        )
        for i in range(3)
    ]
    sizes = [[len(b["eeg"]) for b in share] for share in shares]
    assert sizes[0] == sizes[1] == sizes[2]
    seen = [pair for share in shares for pair in pairs(share)]
    assert len(seen) == len(set(seen))
    if not drop_remainder:
        assert set(total) - set(seen) == set(total[len(total) // 3 * 3 :])
    if not shuffle:
        assert pairs(shares[1]) == total[1::3][: len(pairs(shares[1]))]


def test_a_split_feeds_it(store):
    split = chronological(store.select(subjects=[1, 2]), gap_seconds=0.1)
    got = {
        part: set(pairs(pipeline(store, getattr(split, part), window=20, batch_size=8)))
        for part in ("train", "validate", "test")
    }
    samples = {
        part: {(r, t) for r, first in own for t in range(first, first + 20)}
        for part, own in got.items()
    }
    assert all(got.values())
    for one, other in itertools.combinations(samples.values(), 2):
        assert not one & other


# --- checkpoints -------------------------------------------------------------------------------


def endless(store):
    return pipeline(
        store,
        segments_of(store)[:2],
        window=8,
        batch_size=5,
        shuffle=True,
        seed=3,
        epochs=None,
        layouts=RandomLayouts(sizes=(1, 2, 3), seed=4),
        threads=2,
    )


def test_a_restored_position_gives_the_same_batches(store):
    iterator = iter(endless(store))
    [next(iterator) for _ in range(13)]
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(10)]
    other = iter(endless(store))
    next(other)
    other.set_state(state)
    assert_same([next(other) for _ in range(10)], expected)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_prefetched_batches_are_the_same_and_on_the_device(store, size):
    segments = segments_of(store)[:2]
    dataset = pipeline(store, segments, window=16, batch_size=4)
    on_device = list(device_prefetch(dataset, size=size))
    assert all(isinstance(v, jax.Array) for batch in on_device for v in batch.values())
    assert_same(on_device, list(dataset))


def test_the_prefetched_position_is_that_of_the_last_batch_handed_out(store):
    iterator = device_prefetch(endless(store), size=3)
    start = iterator.get_state()
    first = [next(iterator) for _ in range(4)]
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(6)]
    other = device_prefetch(iter(endless(store)), size=1)
    next(other)
    other.set_state(state)
    assert_same([next(other) for _ in range(6)], expected)
    iterator.set_state(start)
    assert_same([next(iterator) for _ in range(4)], first)


def test_batches_are_spread_over_the_devices(store):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    dataset = pipeline(
        store,
        segments_of(store)[:2],
        window=8,
        batch_size=16,
        drop_remainder=True,
        layouts=RandomLayouts(sizes=(3,)),
    )
    batches = list(device_prefetch(dataset, sharding=sharding))
    assert batches[0]["eeg"].addressable_shards[0].data.shape == (2, 4, 8)
    assert batches[0]["start"].sharding == sharding
    assert batches[0]["observed_index"].sharding.is_fully_replicated
    assert len(batches[0]["observed_index"].sharding.device_set) == 8
    assert_same(batches, list(dataset))
    named = list(device_prefetch(dataset, sharding={"eeg": sharding}))
    assert named[0]["eeg"].sharding == sharding
    assert len(named[0]["start"].sharding.device_set) == 1


# --- layouts -----------------------------------------------------------------------------------


def test_random_layouts(store):
    layouts = RandomLayouts(sizes=(1, 3), seed=7)
    options = {"window": 4, "batch_size": 2, "layouts": layouts, "process_count": 2}
    segments = segments_of(store)[:2]
    drawn = [b["observed_index"] for b in pipeline(store, segments, **options)]
    assert len(drawn) > 40
    assert {len(d) for d in drawn} == {1, 3}
    assert all(d.dtype == np.int32 and (np.diff(d) > 0).all() for d in drawn)
    assert set(np.concatenate(drawn).tolist()) == {0, 1, 2, 3}
    assert len({tuple(d) for d in drawn}) == 8  # all subsets of these sizes
    other = [b["observed_index"] for b in pipeline(store, segments, **options, process_index=1)]
    for a, b in zip(drawn, other, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(drawn[17], layouts.draw(17, 4))
    assert any(
        not np.array_equal(RandomLayouts(sizes=(3,), seed=8).draw(i, 4), layouts.draw(i, 4))
        for i in range(9)
    )


@pytest.mark.parametrize("sizes", [(), (0,), (5,), (2, -1)])
def test_layouts_that_do_not_fit(store, sizes):
    with pytest.raises(ConfigError, match="layouts: sizes .* do not fit 4 channels"):
        pipeline(
            store,
            segments_of(store)[:2],
            window=4,
            batch_size=2,
            layouts=RandomLayouts(sizes=sizes),
        )


# --- refusals ----------------------------------------------------------------------------------


def test_channels_that_are_absent_or_doubled(store):
    options = {"window": 4, "batch_size": 2}
    with pytest.raises(ChannelError, match="sub-1_ses-1_run-1: no channel C3"):
        pipeline(store, segments_of(store), **options, channels=["Fz", "C3"])
    with pytest.raises(ChannelError, match="sub-1_ses-1_run-1: no channel C3"):
        pipeline(store, segments_of(store)[::-1][:2] + segments_of(store)[:1], **options,
                 channels=store.recordings[2].names)  # fmt: skip
    with pytest.raises(ChannelError, match="Fz given more than once"):
        pipeline(store, segments_of(store), **options, channels=["Fz", "Fz"])
    with pytest.raises(ChannelError, match="none"):
        pipeline(store, segments_of(store), **options, channels=[])


def test_bad_channels_are_refused_or_their_recordings_skipped(make_store, make_recording):
    store = make_store(
        [
            make_recording(40, subject="1", bads=("Cz",)),
            make_recording(40, subject="2"),
            make_recording(40, subject="3", bads=("Cz", "Oz")),
        ]
    )
    options = {"window": 10, "batch_size": 4}
    with pytest.raises(ChannelError, match=r"sub-1_ses-1_run-1: Cz marked bad \(2 recordings"):
        pipeline(store, segments_of(store), **options)
    kept = pipeline(store, segments_of(store), **options, skip_bad=True)
    assert {r for r, _ in pairs(kept)} == {1}
    good = pipeline(store, segments_of(store), **options, channels=["Fz", "Pz"])
    assert {r for r, _ in pairs(good)} == {0, 1, 2}
    with pytest.raises(SplitError, match="0 windows for each of 1 processes"):
        pipeline(store, segments_of(store)[:1], **options, skip_bad=True)


def test_different_sampling_rates_are_refused(make_store, make_recording):
    store = make_store([make_recording(40, subject="1"), make_recording(40, subject="2", sfreq=99)])
    with pytest.raises(DatasetError, match="sub-2_ses-1_run-1 at 99 Hz, sub-1_ses-1_run-1 at 100"):
        pipeline(store, segments_of(store), window=4, batch_size=2)
    assert len(list(pipeline(store, segments_of(store)[:1], window=40, batch_size=2))) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"process_index": 2, "process_count": 2},
        {"process_index": -1},
        {"batch_size": 0},
        {"epochs": 0},
        {"seed": -1},
    ],
)
def test_numbers_that_make_no_sense(store, options):
    with pytest.raises(
        ConfigError, match=f"'{next(iter(options))}': .*begin at 1, the others at 0"
    ):
        pipeline(store, segments_of(store)[:2], window=4, **{"batch_size": 2} | options)


# --- processes and real data -------------------------------------------------------------------


def test_it_can_be_sent_to_worker_processes(store):
    dataset = pipeline(store, segments_of(store)[:2], window=16, batch_size=4)
    assert_same(list(pickle.loads(pickle.dumps(dataset))), list(dataset))


def test_importing_is_light():
    code = (
        "import sys, eegsr_jax.data.pipeline, eegsr_jax.data.splits;"
        "heavy = {'mne', 'grain', 'tqdm'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_real_eeg(real_eeg, tmp_path):
    """Windows of a filtered EDF file, equal to slices of what MNE makes of it."""
    import mne

    path = real_eeg / "eegmmidb/S002R04.edf"
    raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
    recording = Recording(
        data=raw.get_data().astype(np.float32),
        sfreq=raw.info["sfreq"],
        names=tuple(raw.ch_names),
        positions=np.zeros((64, 3)),
        usable=np.ones(raw.n_times, bool),
    )
    entry = Entry(subject="2", run="4", path=str(path), read=lambda: recording)
    dataset = Dataset(name="d", entries=(entry,), citation="", licence="")
    store = prepare(dataset, tmp_path / "s", PREPROCESSING["default"], progress=False)
    truth = raw.filter(0.5, 40.0, verbose="error").get_data()
    split = chronological(store)
    names = [raw.ch_names[i] for i in (40, 3, 61)]
    batch = collect(
        pipeline(store, split.test, window=320, batch_size=8, channels=names, shuffle=True)
    )
    assert len(batch["eeg"]) == (split.test[0].stop - split.test[0].start) // 320
    for eeg, start in zip(batch["eeg"], batch["start"], strict=True):
        expected = truth[[40, 3, 61], start : start + 320]
        np.testing.assert_allclose(eeg, expected, atol=1e-6 * np.abs(truth).max())
