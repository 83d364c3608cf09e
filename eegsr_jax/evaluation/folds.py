"""What a protocol is: a rule that turns a store into folds, with its windows, scale and quirks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from eegsr_jax.data.splits import Split
from eegsr_jax.data.store import Store


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One training and test: `subject` labels its rows (a name, or "all")."""

    subject: str
    store: Store
    split: Split
    calibration_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose about a protocol; None and () mean the protocol's own choice."""

    subjects: tuple[str, ...] = ()
    train_runs: tuple[str, ...] = ()
    test_runs: tuple[str, ...] = ()
    train_sessions: tuple[str, ...] = ()
    test_sessions: tuple[str, ...] = ()
    calibration_seconds: tuple[float, ...] = (0.0,)
    test_from: float = 0.6
    gap_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to evaluate.

    Attributes:
      name, summary: as printed.
      preprocessing: preset that the data are prepared with, unless the user says otherwise.
      folds: store and options to folds.
      needs: which of the options must be given.
      window_seconds, window_samples: length of a window; samples win where given.
      zscore: every window and channel is standardised, with the truth's own statistics.
      legacy_batch: windows per batch of `nmse_all_batch`.
      quirks: what makes its numbers differ from ours; printed with every result.
    """

    name: str
    summary: str
    folds: Callable[[Store, Options], list[Fold]]
    needs: tuple[str, ...] = ()
    preprocessing: str = "default"
    window_seconds: float = 2.0
    window_samples: int | None = None
    zscore: bool = False
    legacy_batch: int = 32
    quirks: tuple[str, ...] = field(default=())

    def window(self, sfreq: float) -> int:
        """Samples per window."""
        return self.window_samples or round(self.window_seconds * sfreq)


def chosen_subjects(store: Store, options: Options) -> list[str]:
    """The subjects asked for, or all, in the order of the store."""
    if options.subjects:
        store = store.select(subjects=options.subjects)
    return list(dict.fromkeys(r.subject for r in store.recordings))
