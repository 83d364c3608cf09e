"""Methods by name and as written on the command line."""

from __future__ import annotations

import inspect

import pytest

from eegsr_jax import methods
from eegsr_jax.errors import ConfigError
from eegsr_jax.methods import METHODS, Method, make, parse


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_by_its_name(name):
    method = make(name)
    assert isinstance(method, Method) and method.name == name
    assert getattr(methods, name) is METHODS[name] and name in methods.__all__
    assert inspect.getdoc(METHODS[name])
    assert all(
        p.default is not p.empty for p in inspect.signature(METHODS[name]).parameters.values()
    )


def test_what_needs_training_has_stages_to_train():
    for name in METHODS:
        assert (name in methods.NEEDS_TRAINING) != (name in methods.UNTRAINED)
    for name in methods.NEEDS_TRAINING:
        assert make(name).stages


def test_options_reach_the_method():
    assert make("lagged_ridge", lags=2).context == 2
    assert make("gaussian", lags=0).context == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make("rigde"),
            r"method 'rigde' is unknown; expected one of nearest, .*mean ridge",
        ),
        (lambda: make("qqqq"), r"method 'qqqq' is unknown; expected one of nearest"),
        (
            lambda: make("ridge", lambdas=1),
            r"method ridge has no option 'lambdas'; it has penalties",
        ),
        (lambda: make("nearest", power=1), r"method nearest has no option 'power'; it has none"),
        (lambda: make("gaussian", kernel="rbf"), r"kernel 'rbf'; expected one of spline"),
        (lambda: parse("lagged_ridge(lag=2)"), r"has no option 'lag'; it has lags, penalties"),
        (lambda: parse("ridge,ridge"), "method ridge is named twice"),
        (lambda: parse("ridge("), r"'ridge\(' is no method; write NAME or NAME\(option=value"),
        (lambda: parse("ridge,,nearest"), "'' is no method"),
        (lambda: parse(""), "'' is no method"),
        (lambda: parse("lagged_ridge(2)"), r"'lagged_ridge\(2\)': options are written NAME\("),
        (lambda: parse("lagged_ridge(lags=two)"), "options are written"),
        (lambda: parse("lagged_ridge(lags=)"), "options are written"),
    ],
)
def test_a_bad_method_is_refused_by_name(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "options", "culprit"),
    [
        ("lagged_ridge", {"lags": -1}, "lags"),
        ("lagged_ridge", {"lags": 2.5}, "lags"),
        ("gaussian", {"lags": "two"}, "lags"),
        ("gaussian", {"penalty": -1e-3}, "penalty"),
        ("ridge", {"penalties": ()}, "penalties"),
        ("ridge", {"penalties": 0.1}, "penalties"),
        ("reduced_rank", {"ranks": (2.5,)}, "ranks"),
        ("spherical_spline", {"tune": "yes"}, "tune"),
    ],
)
def test_an_option_of_a_wrong_value_is_refused_by_name(name, options, culprit):
    with pytest.raises(ConfigError, match=culprit):
        make(name, **options)


def test_parse_reads_a_list_of_methods():
    found = parse(
        "spherical_spline(tune=True), ridge,lagged_ridge(lags=2,penalties=(0.1,0.01)),nearest"
    )
    assert list(found) == [
        "spherical_spline(tune=True)",
        "ridge",
        "lagged_ridge(lags=2,penalties=(0.1,0.01))",
        "nearest",
    ]
    names = [method.name for method in found.values()]
    assert names == ["spherical_spline", "ridge", "lagged_ridge", "nearest"]
    assert found["lagged_ridge(lags=2,penalties=(0.1,0.01))"].context == 2
    two = parse("gaussian(lags=0),gaussian(lags=4)")
    assert [m.context for m in two.values()] == [0, 4]


def test_parse_runs_no_code(tmp_path):
    file = tmp_path / "made"
    with pytest.raises(ConfigError):
        parse(f"ridge(penalties=open('{file}','w'))")
    assert not file.exists()
