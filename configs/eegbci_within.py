"""The first sweep: every method that is ours, 13 subjects of EEGMMIDB, six layouts, three seeds.

python -m launch.sweep --config=configs/eegbci_within.py --out=runs/within --set root=FOLDER

Within each subject, runs 4 and 8 train and run 12 tests (imagined movement of the fists); deep
methods have three seeds, closed forms need none. 1,170 trials, about an hour and a half on a core.
Expected (benchmarks/results/sweep_within.md): case2_4x, median over subjects, missing NMSE about
0.0870 for `lagged_ridge`, 0.0861 for `emag` and `srgdiff`.
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment
from eegsr_jax.trials import chain, product, vary

SUBJECTS = tuple(str(n) for n in range(1, 15) if n != 10)
LAYOUTS = ("case1_2x", "case1_4x", "case1_8x", "case2_2x", "case2_4x", "case2_8x")
CLOSED = (
    "nearest",
    "inverse_distance",
    "spherical_spline",
    "spherical_spline(tune=True)",
    "minimum_norm",
    "ridge",
    "lagged_ridge",
    "reduced_rank",
    "gaussian",
)
DEEP = ("emag", "srgdiff")


def get_config() -> Experiment:
    return Experiment(
        dataset="eegbci",
        runs=("4", "8"),
        test_runs=("12",),
        preprocessing=PREPROCESSING["dibima"],
    )


def sweep() -> list[dict]:
    cases = product(vary("layout", LAYOUTS), vary("subjects", [(s,) for s in SUBJECTS]))
    deep = product(vary("method", DEEP), vary("seed", range(3)))
    return product(chain(vary("method", CLOSED), deep), cases)
