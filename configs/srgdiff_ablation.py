"""What SRGDiff's modules and their unknown weights are worth: the paper's preset, one subject.

eegsr train --config=configs/srgdiff_ablation.py --sweep --workdir=runs/ablation --set root=FOLDER

The authors' weights are not known, and a reviewer asked what they matter: lambda_res by lambda_smm,
each module by itself, the size of the latent, steps and eta of the sampler. Every trial is a run
directory for `eegsr inspect` and `eegsr reconstruct`; `eegsr evaluate --methods=…` with the same
texts scores them beside the lagged ridge (benchmarks/results/srgdiff_ablation.md). The denoiser is
a third of the default's, so that a trial takes minutes on two cores.
"""

from eegsr_jax.data.preprocessing import PREPROCESSING
from eegsr_jax.training.experiment import Experiment

SMALL = "units=4,autoencoder_epochs=60,diffusion_epochs=60,batch_size=16"
WINDOW = f"sfreq=160,samples=320,{SMALL}"
RESIDUAL, MODULATION = (0.0, 0.1, 1.0, 10.0), (0.0, 0.01, 0.1)


def get_config() -> Experiment:
    """One subject; `WINDOW` binds the method to windows of 2 s at 160 Hz, and 10 steps."""
    return Experiment(
        dataset="eegbci",
        subjects=("1",),
        runs=("3", "4", "5", "6"),
        preprocessing=PREPROCESSING["dibima"],
        method=f"srgdiff_paper({WINDOW},steps=10)",
    )


def sweep() -> list[dict]:
    """Trials, each another method."""
    weights = [f"lambda_res={r},lambda_smm={m}" for r in RESIDUAL for m in MODULATION]
    modules = ["residual=False", "modulation=False", "residual=False,modulation=False"]
    sizes = [f"latent={n}" for n in (8, 16)]
    sampler = [f"steps={n}" for n in (5, 20, 50)]
    trials = [f"{options},steps=10" for options in (*weights, *modules, *sizes, "eta=0.5", "eta=1")]
    return [{"method": f"srgdiff_paper({WINDOW},{options})"} for options in (*trials, *sampler)]
