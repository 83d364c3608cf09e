"""The `eegsr` program: what it lists, how it refuses, and that it leaves one line and status 2."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eegsr_jax import __version__, commands
from eegsr_jax.commands import main as program

ECHO = '''"""Print a greeting.

The long text.
"""
from absl import flags
from eegsr_jax.errors import ChannelError

ARGUMENTS = ("IN", "OUT")

def define_flags():
    values = flags.FlagValues()
    flags.DEFINE_integer("times", 1, "How often.", flag_values=values)
    flags.DEFINE_list("channels", [], "Which channels.", flag_values=values)
    flags.DEFINE_string("fault", None, "What goes wrong.", flag_values=values)
    return values

def run(flags, source, target):
    if flags.fault == "input":
        raise ChannelError(f"{source}: channel Cz is flat;\\n  drop it")
    if flags.fault == "full":
        with open("/dev/full", "w") as stream:
            stream.write("x" * 100_000)
    if flags.fault == "missing":
        open(source)
    if flags.fault == "interrupt":
        raise KeyboardInterrupt
    if flags.fault == "bug":
        raise ZeroDivisionError("ours")
    print(source, target, flags.times, flags.channels)
'''


@pytest.fixture(autouse=True)
def echo(tmp_path, monkeypatch):
    """A further command, `echo_test`, found as any other: it lies in a folder of commands."""
    (tmp_path / "echo_test.py").write_text(ECHO)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    yield
    sys.modules.pop("eegsr_jax.commands.echo_test", None)


def refused(capsys, *words: str) -> str:
    """The one line that `eegsr WORDS` leaves on stderr with exit status 2."""
    assert program.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_help_lists_every_command_with_its_line(capsys):
    assert program.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "  echo_test    Print a greeting.\n" in out
    assert "main" not in program.names()
    listed = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert tuple(name for name, _ in listed) == program.names()


def test_version_and_no_command(capsys):
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"eegsr_jax {__version__}\n"
    assert program.main([]) == 2


def test_command_help_shows_arguments_text_and_flags(capsys):
    assert program.main(["echo_test", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("eegsr echo_test IN OUT [--FLAG=VALUE ...]\n\nPrint a greeting.")
    assert "The long text." in out
    assert "--times" in out
    assert "How often. (default '1')" in out
    assert "--debug" in out


def test_flags_and_arguments_in_any_order_and_fresh_each_time(capsys):
    assert program.main(["echo_test", "a", "--times=3", "--channels=Cz,Pz", "b"]) == 0
    assert program.main(["echo_test", "a", "b"]) == 0
    assert capsys.readouterr().out == "a b 3 ['Cz', 'Pz']\na b 1 []\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["echo_tset"], "eegsr echo_tset: unknown command; did you mean echo_test?"),
        (["echo_test", "a"], "eegsr echo_test: expected IN OUT, found a"),
        (["echo_test", "a", "b", "c"], "expected IN OUT, found a b c"),
        (["echo_test", "a", "b", "--time=3"], "'time'. Did you mean: times ? (eegsr echo_test"),
        (["echo_test", "a", "b", "--times=x"], "flag --times=x"),
        (["echo_test", "f.edf", "b", "--fault=input"], "f.edf: channel Cz is flat; drop it\n"),
        (["echo_test", "no.fif", "b", "--fault=missing"], "no.fif: No such file or directory\n"),
        (["echo_test", "a", "b", "--fault=full"], "no space left on the disk"),
        (["echo_test", "a", "b", "--fault=interrupt"], "interrupted; nothing half-written\n"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, words, message):
    assert message in refused(capsys, *words)


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="Cz is flat"):
        program.main(["echo_test", "a", "b", "--fault=input", "--debug"])


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        program.main(["echo_test", "a", "b", "--fault=bug"])


def test_every_command_keeps_the_contract():
    for name in program.names():
        module = program._find(name)
        assert (module.__doc__ or "").partition("\n")[0].endswith(".")
        assert module.define_flags() is not module.define_flags()
        assert all(word == word.upper() for word in module.ARGUMENTS)
        assert callable(module.run)
        flags = module.define_flags()
        assert all(flags[flag].help for flag in flags)


def test_the_program_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "eegsr_jax.commands.main", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("eegsr nonsense: unknown command")
