"""What SRGDiff's modules and their unknown weights are worth: the paper's preset, one subject.

eegsr train --config=configs/srgdiff_ablation.py --sweep --workdir=runs/ablation --set root=FOLDER

The authors' weights are not known, and a reviewer asked what they matter: lambda_res by lambda_smm,
each module by itself, the size of the latent, steps and eta of the sampler. Every trial is a run
directory for `eegsr inspect` and `eegsr reconstruct`; `eegsr evaluate --methods=…` with the same
texts scores them beside the lagged ridge (benchmarks/results/srgdiff_presets.md).
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.run import Experiment

WINDOW = "sfreq=160,samples=320"
RESIDUAL, MODULATION = (0.0, 0.1, 1.0, 10.0), (0.0, 0.01, 0.1)


def get_config() -> Experiment:
    """One subject; `WINDOW` binds the method to windows of 2 s at 160 Hz."""
    return Experiment(
        dataset="eegbci",
        subjects=("1",),
        runs=("3", "4", "5", "6", "7", "8", "9", "10"),
        preprocessing=PREPROCESSING["dibima"],
        method=f"srgdiff_paper({WINDOW})",
    )


def sweep() -> list[dict]:
    """Trials, each another method."""
    weights = [f"lambda_res={r},lambda_smm={m}" for r in RESIDUAL for m in MODULATION]
    modules = ["residual=False", "modulation=False", "residual=False,modulation=False"]
    sizes = [f"latent={n}" for n in (8, 16)]
    sampler = ["steps=5", "steps=10", "steps=20", "eta=0.5", "eta=1.0"]
    return [
        {"method": f"srgdiff_paper({WINDOW},{options})"}
        for options in (*weights, *modules, *sizes, *sampler)
    ]
