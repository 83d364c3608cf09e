"""EMAG with our fixes, every subject of EEGMMIDB at six layouts, all trained together.

eegsr train --config=configs/emag_eegbci_all.py --sweep --workdir=runs/emag_all --set root=FOLDER
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment

SUBJECTS = tuple(str(n) for n in range(1, 15) if n != 10)
LAYOUTS = ("case1_2x", "case1_4x", "case1_8x", "case2_2x", "case2_4x", "case2_8x")


def get_config() -> Experiment:
    return Experiment(
        dataset="eegbci",
        runs=("4", "8"),
        preprocessing=PREPROCESSING["dibima"],
        method="emag",
    )


def sweep() -> list[dict]:
    return [{"subjects": (s,), "layout": layout} for s in SUBJECTS for layout in LAYOUTS]
