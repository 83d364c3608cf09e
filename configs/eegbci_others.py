"""Leave-subjects-out over 13 subjects of EEGMMIDB, six layouts: what transfers to a new head.

python -m launch.sweep --config=configs/eegbci_others.py --out=runs/others --set root=FOLDER

Run 4 of twelve subjects trains (a quarter of them validate), the last 40 % of the thirteenth's
tests. 624 trials. Expected (benchmarks/results/sweep_others.md):
case2_4x, median over subjects, missing NMSE about 0.170 for `gaussian`, 0.173 for `emag`, 0.180 for
`lagged_ridge`.
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.trials import chain, product, vary

SUBJECTS = tuple(str(n) for n in range(1, 15) if n != 10)
LAYOUTS = ("case1_2x", "case1_4x", "case1_8x", "case2_2x", "case2_4x", "case2_8x")
CLOSED = ("spherical_spline", "spherical_spline(tune=True)", "ridge", "lagged_ridge", "gaussian")


def get_config() -> Experiment:
    return Experiment(
        dataset="eegbci",
        subjects=SUBJECTS,
        runs=("4",),
        preprocessing=PREPROCESSING["dibima"],
        validate=0.25,
    )


def sweep() -> list[dict]:
    cases = product(vary("layout", LAYOUTS), vary("test_subjects", [(s,) for s in SUBJECTS]))
    deep = product(vary("method", ("emag",)), vary("seed", range(3)))
    return product(chain(vary("method", CLOSED), deep), cases)
