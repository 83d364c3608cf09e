"""Exceptions that end in one clear line: what was found, what was expected, and the mend.

Everything a user can get wrong raises a subclass of `EEGSRError`; the command line prints the
message on one line and exits with status 2. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class EEGSRError(ValueError):
    """Base of every error caused by input; one line: the thing, the finding and the mend."""


class ChannelError(EEGSRError):
    """A channel or electrode is missing, doubled, flat, not finite or has no usable position."""


class RecordingError(EEGSRError):
    """A recording cannot be read or written, or is not what the caller said it was."""


class DatasetError(EEGSRError):
    """A data set is absent or not laid out as expected; the message shows the expected layout."""


class SplitError(EEGSRError):
    """Training, validation and test data overlap, are empty, or name unknown recordings."""


class ConfigError(EEGSRError):
    """A configuration field, option or flag is unknown or has the wrong type or value."""


class MethodError(EEGSRError):
    """A method is asked for something that it cannot do with this geometry or these data."""


def error_of(check: Callable[..., None], *arguments: Any) -> EEGSRError | None:
    """What a check raises of these, or None."""
    try:
        check(*arguments)
    except EEGSRError as error:
        return error
    return None
