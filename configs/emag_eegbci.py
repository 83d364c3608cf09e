"""EMAG with our fixes, 16 -> 64 channels, one subject of EEGMMIDB.

eegsr train --config=configs/emag_eegbci.py --workdir=runs/emag --set root=FOLDER

Expected, S001, trained on runs 3-10 and tested on runs 11-14: missing NMSE 0.0318 (lagged ridge:
0.0331).
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment


def get_config() -> Experiment:
    return Experiment(
        dataset="eegbci",
        subjects=("1",),
        runs=("3", "4", "5", "6", "7", "8", "9", "10"),
        preprocessing=PREPROCESSING["dibima"],
        layout="case2_4x",
        method="emag",
    )
