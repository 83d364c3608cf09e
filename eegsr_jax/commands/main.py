"""The `eegsr` program: finds the command, reads its flags, and turns errors into one line.

Exit status: 0 done, 2 bad input or interrupted (one line on stderr). Anything else is a bug and
shows its traceback; `--debug` shows it for every error.
"""

from __future__ import annotations

import ast
import difflib
import errno
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from absl import flags

from eegsr_jax import __version__, commands
from eegsr_jax.errors import ConfigError, EEGSRError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `eegsr ARGV...` (default: the arguments of this process) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "-help", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"eegsr_jax {__version__}")
        return 0
    name = words[0]
    try:
        command = _find(name)
        if any(word in ("-h", "-help", "--help") for word in words[1:]):
            print(_usage(name, command))
            return 0
        _run(name, command, words)
    except (EEGSRError, flags.Error, OSError, KeyboardInterrupt) as error:
        if "--debug" in words:
            raise
        print(f"eegsr {name}: {' '.join(explain(f'eegsr {name}', error).split())}", file=sys.stderr)
        return 2
    return 0


def names() -> tuple[str, ...]:
    """The commands there are: the other modules of this folder."""
    return tuple(m.name for m in pkgutil.iter_modules(commands.__path__) if m.name != "main")


def _find(name: str) -> ModuleType:
    if name in names():
        return import_module(f"eegsr_jax.commands.{name}")
    close = difflib.get_close_matches(name, names(), n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"unknown command; {guess}There are: {', '.join(names())}")


def _run(name: str, command: ModuleType, words: list[str]) -> None:
    values = _flags(command)
    arguments = values([f"eegsr {name}", *words[1:]])[1:]
    if len(arguments) != len(command.ARGUMENTS):
        expected = " ".join(command.ARGUMENTS) or "no argument without a flag"
        raise ConfigError(f"expected {expected}, found {' '.join(arguments) or 'none'}")
    command.run(values, *arguments)


def _flags(command: ModuleType) -> flags.FlagValues:
    values = command.define_flags()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    return values


def explain(program: str, error: BaseException) -> str:
    """What a user reads of an error of the input."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written"
    if isinstance(error, flags.Error):
        return f"{error} ({program} --help lists the flags)"
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{place}; free some or write elsewhere"
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _overview() -> str:
    lines = ["eegsr COMMAND [ARGUMENTS] [--FLAG=VALUE ...]", ""]
    for name in names():
        lines.append(f"  {name:<12} {_summary(name)}")
    return "\n".join([*lines, "", "eegsr COMMAND --help says more; eegsr --version"])


def _summary(name: str) -> str:
    """First line of the command's docstring, read without importing it: help must be quick."""
    spec = find_spec(f"eegsr_jax.commands.{name}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _usage(name: str, command: ModuleType) -> str:
    lines = [" ".join(["eegsr", name, *command.ARGUMENTS, "[--FLAG=VALUE ...]"]), ""]
    lines += [(command.__doc__ or "").strip(), ""]
    return "\n".join([*lines, *flag_lines(_flags(command))])


def flag_lines(values: flags.FlagValues) -> list[str]:
    """What each flag is for, and its default."""
    lines = []
    for flag in (values[name] for name in values):
        default = f" (default {flag.default_as_str})" if flag.default else ""
        lines.append(f"  --{flag.name:<15} {' '.join(flag.help.split())}{default}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
