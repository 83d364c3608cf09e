"""The `eegsr` commands, one module each.

A command module holds

- a docstring whose first line is its entry in `eegsr --help`, the rest its `--help` text;
- `ARGUMENTS`: the names of its positional arguments, `()` for none;
- `define_flags() -> absl.flags.FlagValues`: its own flags, made anew at each call;
- `run(flags, *arguments) -> None`: does the work; raises `EEGSRError` on bad input.

Nothing is registered: a module put into this folder is a command.
"""
