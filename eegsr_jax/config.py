"""Configurations: frozen dataclasses, built by `configs/*.py`, overridden by `--set`, kept as JSON.

A configuration is a frozen, keyword-only dataclass whose fields hold `bool`, `int`, `float`, `str`,
`None`, an `enum.Enum`, tuples of these, other such dataclasses, or a union of them. It is hashable,
so it may be a static argument of `jax.jit`, and its type hints are the whole schema: they say what
an override `optimizer.lr=3e-4` means and what a JSON file may hold.

In JSON a dataclass is an object with its class name under `"type"`, an enum is its member's name,
and the numbers that JSON lacks are the strings "inf", "-inf" and "nan".

Every error is a `ConfigError` that names the field by its dotted path.
"""

from __future__ import annotations

import ast
import difflib
import enum
import functools
import hashlib
import json
import math
import runpy
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from eegsr_jax.errors import ConfigError

T = TypeVar("T")

_NOT_JSON = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_WORDS = {"none": None, "true": True, "false": False}
_PLAIN = (bool, int, str, types.NoneType)


def to_json(config: Any) -> str:
    """Writes `config` as JSON, one field a line, in the order of the fields.

    Raises:
      ConfigError: a value is not of its field's type.
    """
    return json.dumps(_encode(type(config), config, ""), indent=2, allow_nan=False) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """Reads what `to_json` wrote. Fields that have a default may be left out.

    Raises:
      ConfigError: the text is not JSON, a field is unknown or missing, or a type is wrong.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error}") from None
    return _decode(cls, value, "")


def override(config: T, assignments: Iterable[str]) -> T:
    """A copy of `config` with each `"field.sub=value"` applied in turn.

    The text is read by the field's type: `none`, `true`, `1e-3`, `inf`, an enum member's name,
    `1,2,3` or `(1, 2, 3)` for a tuple, nothing for the empty tuple; a string needs no
    quotes.

    Raises:
      ConfigError: an assignment has no `=`, names an unknown field (the message offers close
        ones), or its text does not fit the field's type.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected field=value")
        path = path.strip()
        config = _replace_at(config, path, "", functools.partial(_parse, text=text.strip()))
    return config


def load(path: str | Path, assignments: Iterable[str] = ()) -> Any:
    """Runs `get_config()` of a Python file and applies `assignments` as `override` does.

    Raises:
      ConfigError: the file is missing, fails, has no `get_config`, or returns something that is
        not a valid configuration.
    """
    return override(_checked(_call(path, "get_config"), f"{path}: get_config()"), assignments)


def load_sweep(path: str | Path, assignments: Iterable[str] = ()) -> tuple[Any, ...]:
    """The configurations that `sweep()` of a Python file asks for, in its order.

    `sweep()` returns dicts from a dotted field to its value; each is set on `load(path,
    assignments)`.

    Raises:
      ConfigError: as `load`; also a value that does not fit its field.
    """
    base = load(path, assignments)
    trials, asked = [], _call(path, "sweep")
    if not isinstance(asked, list | tuple) or not asked:
        raise ConfigError(f"{path}: sweep() gave {asked!r}, expected a list of dicts, not empty")
    for number, changes in enumerate(asked):
        if not isinstance(changes, dict):
            raise ConfigError(f"{path}: sweep()[{number}] is {changes!r}, expected a dict")
        trial = base
        for field, value in changes.items():
            trial = _replace_at(trial, field, "", lambda hint, where, value=value: value)
        trials.append(_checked(trial, f"{path}: sweep()[{number}]"))
    return tuple(trials)


def list_to_json(configs: Iterable[Any]) -> str:
    """Writes several configurations as a JSON array."""
    return json.dumps([_encode(type(c), c, "") for c in configs], indent=1, allow_nan=False) + "\n"


def load_list(cls: type[T], path: str | Path) -> tuple[T, ...]:
    """Reads a file of what `list_to_json` wrote.

    Raises:
      ConfigError: the file cannot be read, or holds no such array, or an empty one.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{path}: expected an array of {cls.__name__}s, not empty")
    return tuple(_decode(cls, value, f"{path}[{i}]") for i, value in enumerate(found))


def literal(text: str) -> Any:
    """The value of a Python literal (a tuple becomes a list) or of none, true, false; or `text`."""
    try:
        return _lists(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _WORDS.get(text.lower(), text)


def resolved_hash(config: Any) -> str:
    """Sixteen hexadecimal digits that depend on the class names and every field's value.

    The same on every machine and Python; it names the run folders of a sweep.
    """
    encoded = json.dumps(_encode(type(config), config, ""), sort_keys=True, allow_nan=False)
    return hashlib.sha256(encoded.encode()).hexdigest()[:16]


# --- one value against one type hint -----------------------------------------------------------


def _encode(hint: Any, value: Any, where: str) -> Any:
    """`value` as JSON data, checked against `hint`."""
    for arm in _ordered(hint, value):
        if _is_config(arm) and type(value) is arm:
            return {"type": arm.__name__} | {
                name: _encode(item, getattr(value, name), _join(where, name))
                for name, item in _hints(arm).items()
            }
        if isinstance(value, tuple) and (items := _item_hints(arm, len(value))) is not None:
            return [
                _encode(*item, f"{where}[{i}]")
                for i, item in enumerate(zip(items, value, strict=True))
            ]
        if _is_enum(arm) and isinstance(value, enum.Enum) and type(value) is arm:
            return value.name
        if arm is float and type(value) is not bool and isinstance(value, (int, float)):
            return float(value) if math.isfinite(value) else str(float(value))
        if arm in _PLAIN and type(value) is arm:
            return value
    raise _mismatch(hint, value, where)


def _decode(hint: Any, value: Any, where: str) -> Any:
    """The inverse of `_encode`: JSON data to a value of type `hint`."""
    for arm in _ordered(hint, value):
        if _is_config(arm) and isinstance(value, dict):
            if value.get("type", arm.__name__) == arm.__name__:
                return _build(arm, value, where)
        if isinstance(value, list) and (items := _item_hints(arm, len(value))) is not None:
            pairs = enumerate(zip(items, value, strict=True))
            return tuple(_decode(*item, f"{where}[{i}]") for i, item in pairs)
        if _is_enum(arm) and isinstance(value, str) and value in arm.__members__:
            return arm[value]
        if arm is float and isinstance(value, str) and value in _NOT_JSON:
            return _NOT_JSON[value]
        if arm is float and type(value) is not bool and isinstance(value, (int, float)):
            return float(value)
        if arm in _PLAIN and type(value) is arm:
            return value
    raise _mismatch(hint, value, where)


def _parse(hint: Any, where: str, text: str) -> Any:
    """What the text of an override means for a field of type `hint`: the first reading to fit."""
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    for reading in (literal(text), [literal(piece) for piece in pieces], text, pieces):
        try:
            return _decode(hint, reading, where)
        except ConfigError:
            continue
    raise _mismatch(hint, text, where)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def _build(cls: Any, values: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls` from a JSON object."""
    hints = _hints(cls)
    for name in values:
        if name != "type" and name not in hints:
            raise _unknown(cls, name, where)
    decoded = {
        name: _decode(hint, values[name], _join(where, name))
        for name, hint in hints.items()
        if name in values
    }
    return _construct(lambda: cls(**decoded), where or cls.__name__)


def _replace_at(config: Any, path: str, where: str, change: Callable[[Any, str], Any]) -> Any:
    """A copy of `config` whose field `path` is `change(its hint, its full dotted name)`."""
    name, _, rest = path.partition(".")
    hints = _hints(type(config))
    if name not in hints:
        raise _unknown(type(config), name, where)
    full = _join(where, name)
    current = getattr(config, name)
    if rest and not is_dataclass(current):
        raise ConfigError(f"{full} is {current!r} and has no fields, so {full}.{rest} is unknown")
    if rest:
        value = _replace_at(current, rest, full, change)
    else:
        value = change(hints[name], full)
    return _construct(lambda: replace(config, **{name: value}), full)


def _construct(make: Callable[[], Any], where: str) -> Any:
    """Runs a constructor and puts the field's name before what its `__post_init__` refuses."""
    try:
        return make()
    except ConfigError:
        raise  # an inner field has already said where
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


# --- files -------------------------------------------------------------------------------------


def _call(path: str | Path, function: str) -> Any:
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        names = runpy.run_path(str(path))
        if function in names:
            return names[function]()
    except Exception as error:  # the file is the user's: any failure is his to mend
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    raise ConfigError(f"{path} defines no {function}()")


def _checked(config: T, where: str) -> T:
    """`config` with every type checked; an int in a float field becomes a float."""
    if not _is_config(type(config)):
        raise ConfigError(f"{where} gave {config!r}, expected an instance of a config dataclass")
    try:
        return from_json(type(config), to_json(config))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


# --- type hints --------------------------------------------------------------------------------


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def _arms(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the hint alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _ordered(hint: Any, value: Any) -> list[Any]:
    """The alternatives, the value's very type first and text last: "inf" is a number if it may."""
    return sorted(_arms(hint), key=lambda arm: (arm is str, arm is not type(value)))


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _item_hints(hint: Any, number: int) -> list[Any] | None:
    """The hint of each item of a tuple; None where `hint` is no tuple of that many items."""
    if typing.get_origin(hint) is not tuple:
        return None
    args = list(typing.get_args(hint))
    if args[-1:] == [Ellipsis]:
        return args[:1] * number
    return args if len(args) == number else None


# --- messages ----------------------------------------------------------------------------------


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unknown(cls: type, name: str, where: str) -> ConfigError:
    known = list(_hints(cls))
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {_join(where, close[0])}?" if close else ""
    return ConfigError(
        f"unknown field {_join(where, name)}{guess} ({cls.__name__} has {', '.join(known)})"
    )


def _mismatch(hint: Any, value: Any, where: str) -> ConfigError:
    tagged = isinstance(value, dict) and "type" in value
    found = f"type {value['type']!r}" if tagged else repr(value)
    return ConfigError(f"{where or 'config'}: found {found}, expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    if len(arms := _arms(hint)) > 1:
        return " or ".join(_describe(arm) for arm in arms)
    if hint is types.NoneType:
        return "none"
    if _is_enum(hint):
        return "one of " + ", ".join(hint.__members__)
    return hint.__name__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint)
