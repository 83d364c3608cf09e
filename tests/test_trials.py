"""Lists of trials: how they are made, and what cannot be."""

from __future__ import annotations

import pytest

from eegsr_jax.errors import ConfigError
from eegsr_jax.trials import chain, product, subsample, vary, zipped


def test_the_last_list_varies_fastest():
    found = product(vary("a", [1, 2]), vary("b", "xy"))
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert product() == [{}] and product(vary("a", [1])) == [{"a": 1}]


def test_side_by_side_and_one_after_the_other():
    assert zipped(vary("a", [1, 2]), vary("b", [3, 4])) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert chain(vary("a", [1]), vary("b", [2])) == [{"a": 1}, {"b": 2}]


def test_a_sample_is_the_same_each_time_and_in_order():
    trials = vary("a", range(100))
    found = subsample(trials, 10, seed=3)
    assert found == subsample(trials, 10, seed=3) != subsample(trials, 10, seed=4)
    numbers = [trial["a"] for trial in found]
    assert numbers == sorted(set(numbers)) and len(numbers) == 10
    assert subsample(trials, 100) == trials


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product(vary("seed", [1]), vary("seed", [2])), "two lists set seed"),
        (lambda: zipped(vary("a", [1]), vary("b", [1, 2])), "lists of 1, 2 trials"),
        (lambda: subsample(vary("a", [1]), 2), "subsample: 2 of 1 trials"),
        (lambda: subsample(vary("a", [1]), 0), "subsample: 0 of 1 trials"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
