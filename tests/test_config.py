"""Configurations survive JSON, read overrides by type, and name the field they refuse."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eegsr_jax import config
from eegsr_jax.errors import ConfigError


class Reference(enum.Enum):
    NATIVE = "native"
    AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    steps: int = 100
    clip: float | None = None

    def __post_init__(self):
        if self.steps < 0:
            raise ConfigError(f"steps must not be negative, found {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Ridge:
    penalty: float = 1.0
    lags: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class Network:
    width: int = 64
    shape: tuple[int, float] = (3, 0.5)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    name: str
    method: Ridge | Network = Ridge()
    optimizer: Optimizer = Optimizer()
    reference: Reference = Reference.NATIVE
    bands: tuple[tuple[float, float], ...] = ()
    channels: tuple[str, ...] | None = None
    seed: int | None = 0
    shuffle: bool = True


reals = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
experiments = st.builds(
    Experiment,
    name=st.text(),
    method=st.builds(Ridge, penalty=reals, lags=st.lists(st.integers()).map(tuple))
    | st.builds(Network, width=st.integers(), shape=st.tuples(st.integers(), reals)),
    optimizer=st.builds(Optimizer, lr=reals, steps=st.integers(0), clip=st.none() | reals),
    reference=st.sampled_from(Reference),
    bands=st.lists(st.tuples(reals, reals), max_size=3).map(tuple),
    channels=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    seed=st.none() | st.integers(),
    shuffle=st.booleans(),
)
BASE = Experiment(name="base")


@given(experiments)
def test_json_round_trip_is_exact(experiment):
    text = config.to_json(experiment)
    back = config.from_json(Experiment, text)
    assert back == experiment
    assert config.to_json(back) == text
    assert config.resolved_hash(back) == config.resolved_hash(experiment)
    assert hash(back) == hash(experiment)  # usable as a static argument of jit


@given(experiments)
def test_json_is_strict_json(experiment):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(config.to_json(experiment), parse_constant=refuse)


def test_nan_survives():
    text = config.to_json(replace(BASE, optimizer=Optimizer(lr=float("nan"))))
    assert config.from_json(Experiment, text).optimizer.lr != 0
    assert '"lr": "nan"' in text


@given(reals, st.integers(), st.lists(st.tuples(finite, finite), max_size=3).map(tuple))
def test_override_reads_what_python_prints(lr, seed, bands):
    got = config.override(BASE, [f"optimizer.lr={lr!r}", f"seed={seed}", f"bands={bands!r}"])
    assert got == replace(BASE, optimizer=Optimizer(lr=lr), seed=seed, bands=bands)


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("name=64", "name", "64"),
        ("name=", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("name='quoted'", "name", "quoted"),
        ("seed=None", "seed", None),
        ("seed=none", "seed", None),
        ("shuffle=false", "shuffle", False),
        ("reference=AVERAGE", "reference", Reference.AVERAGE),
        ("channels=Fp1,Fp2", "channels", ("Fp1", "Fp2")),
        ("channels=7,8", "channels", ("7", "8")),
        ("channels=Cz", "channels", ("Cz",)),
        ("channels=", "channels", ()),
        ("channels=none", "channels", None),
        ("bands=(1, 4), (4, 8)", "bands", ((1.0, 4.0), (4.0, 8.0))),
    ],
)
def test_override_reads_text_by_the_field_type(assignment, field, value):
    got = getattr(config.override(BASE, [assignment]), field)
    assert got == value
    assert type(got) is type(value)


def test_override_reaches_nested_fields_in_turn():
    got = config.override(
        BASE,
        ["optimizer.lr=3", "optimizer.clip=inf", "method.lags=-1,0,1", "optimizer.lr=.5"],
    )
    assert got.optimizer == Optimizer(lr=0.5, clip=float("inf"))
    assert got.method == Ridge(lags=(-1, 0, 1))
    assert type(got.optimizer.lr) is float
    assert BASE.optimizer.lr == 1e-3  # untouched


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("optimiser.lr=1", ["unknown field optimiser", "did you mean optimizer?"]),
        ("optimizer.lrr=1", ["unknown field optimizer.lrr", "did you mean optimizer.lr?", "steps"]),
        ("method.width=3", ["unknown field method.width", "Ridge has penalty, lags"]),
        ("seed.x=1", ["seed is 0", "seed.x"]),
        ("optimizer.lr=fast", ["optimizer.lr", "'fast'", "expected float"]),
        ("optimizer.steps=1.5", ["optimizer.steps", "'1.5'", "expected int"]),
        ("seed=true", ["seed", "'true'", "expected int or none"]),
        ("shuffle=1", ["shuffle", "'1'", "expected bool"]),
        ("reference=mastoid", ["reference", "one of NATIVE, AVERAGE"]),
        ("method=Network", ["method", "Ridge or Network"]),
        ("optimizer.steps=-1", ["steps must not be negative, found -1"]),
        ("name", ["--set name", "field=value"]),
    ],
)
def test_override_refuses_by_name(assignment, words):
    with pytest.raises(ConfigError) as caught:
        config.override(BASE, [assignment])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widht": 1}, ["unknown field widht"]),
        ({"name": 3}, ["name: found 3, expected str"]),
        ({"optimizer": {"lr": "fast"}}, ["optimizer.lr: found 'fast', expected float"]),
        ({"optimizer": {"steps": True}}, ["optimizer.steps: found True, expected int"]),
        ({"optimizer": {"type": "Adam"}}, ["optimizer: found type 'Adam', expected Optimizer"]),
        ({"bands": [[1, 4], [4]]}, ["bands[1]: found [4], expected tuple[float, float]"]),
        ({"channels": "Cz"}, ["channels: found 'Cz', expected tuple[str, ...] or none"]),
    ],
)
def test_json_refuses_by_name(change, words):
    values = json.loads(config.to_json(BASE)) | change
    with pytest.raises(ConfigError) as caught:
        config.from_json(Experiment, json.dumps(values))
    for word in words:
        assert word in str(caught.value)


def test_json_may_leave_out_defaults_only():
    assert config.from_json(Experiment, '{"name": "base"}') == BASE
    with pytest.raises(ConfigError, match="Experiment.*'name'"):
        config.from_json(Experiment, "{}")
    with pytest.raises(ConfigError, match="not valid JSON"):
        config.from_json(Experiment, "{")


def test_wrong_types_built_in_python_are_refused():
    with pytest.raises(ConfigError, match="optimizer.lr: found '1', expected float"):
        config.to_json(replace(BASE, optimizer=Optimizer(lr="1")))  # type: ignore[arg-type]


def test_hash_depends_on_values_and_class():
    one = config.resolved_hash(BASE)
    assert len(one) == 16
    assert int(one, 16) >= 0
    assert config.resolved_hash(replace(BASE, seed=1)) != one
    assert config.resolved_hash(replace(BASE, method=Network())) != one
    whole = replace(BASE, optimizer=Optimizer(lr=1))
    assert config.resolved_hash(whole) == config.resolved_hash(
        replace(BASE, optimizer=Optimizer(lr=1.0))
    )


# --- files ---

FILE = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Run:
    width: int = 8
    lr: float = 1

def get_config():
    return Run()

def sweep():
    return [{"width": w, "lr": 1} for w in (16, 32)]
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.py"
    path.write_text(FILE)
    return path


def test_load_applies_overrides_and_normalises(config_file):
    run = config.load(config_file, ["width=9"])
    assert (run.width, run.lr) == (9, 1.0)
    assert type(run.lr) is float


def test_load_sweep_gives_one_config_a_trial(config_file):
    trials = config.load_sweep(config_file, ["lr=0.5"])
    assert [(t.width, t.lr) for t in trials] == [(16, 1.0), (32, 1.0)]
    assert all(type(t.lr) is float for t in trials)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return Run()", "return {}", ["get_config()", "{}", "dataclass"]),
        ("return Run()", "return Run(width='8')", ["width: found '8', expected int"]),
        ("return Run()", "return Run(depth=1)", ["TypeError", "depth"]),
        ("def get_config", "def config", ["defines no get_config()"]),
        ("return Run()", "return (", ["SyntaxError"]),
    ],
)
def test_load_names_the_file_and_the_fault(config_file, old, new, words):
    config_file.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        config.load(config_file)
    for word in [config_file.name, *words]:
        assert word in str(caught.value)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="absent.py: no such configuration file"):
        config.load(tmp_path / "absent.py")


def test_load_sweep_refuses_a_value_by_trial(config_file):
    config_file.write_text(FILE.replace("(16, 32)", "(16, 'wide')"))
    with pytest.raises(ConfigError, match=r"sweep\(\)\[1\]: width: found 'wide', expected int"):
        config.load_sweep(config_file)
