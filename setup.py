"""Packaging. Every bound has its reason beside it; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "eegsr_jax/__init__.py").read_text())[1]

REQUIRES = [
    "jax>=0.10,<0.13",  # tested pairs: 0.10 (the last for Python 3.11) and 0.12; 0.13 is unknown
    "flax>=0.12.8",  # the oldest tested; on jax>=0.11.1 pip must find 0.12.12, and does on 3.12
    "optax",
    "orbax-checkpoint>=0.12.8",  # 0.12 renamed the functions of the v1 API
    "grain>=0.2.18",  # samplers and sharding moved between earlier releases
    "absl-py",
    "mne>=1.10",  # the oldest whose montages and exports we support
    "edfio",  # MNE writes EDF with it but does not install it
    "pybv",  # MNE writes BrainVision with it but does not install it
    "pymatreader",  # MNE reads EEGLAB files of MATLAB 7.3 with it but does not install it
    "numpy>=2.1",  # what MNE asks for
    "scipy>=1.14",  # what JAX and MNE ask for
    "jaxtyping",
    "pooch",  # checked downloads; MNE brings it, but we call it ourselves
    "tqdm",  # progress bars; MNE brings it, but we call it ourselves
    "flatbuffers",  # jax.export writes with it, and JAX does not install it
]

BIDS = ["mne-bids"]
SLURM = ["submitit>=1.5.3"]  # job arrays, and that jobs run again
K8S = ["PyYAML"]  # flax installs it today; named so that the extra keeps its word
PARQUET = ["pyarrow"]  # the table of a sweep, beside CSV
EXTRAS = {
    "bids": BIDS,
    "viz": ["matplotlib"],  # MNE installs it today; named so that the extra keeps its word
    "tensorboard": ["tensorboardX"],  # writes event files without TensorFlow
    "wandb": ["wandb"],
    "lsl": ["mne-lsl"],  # brings liblsl
    "bench": ["torch"],  # only to time the PyTorch originals beside ours
    "slurm": SLURM,
    "k8s": K8S,
    "parquet": PARQUET,
    "dev": [
        *BIDS,
        *SLURM,
        *K8S,
        *PARQUET,
        "beartype",  # checks jaxtyping's shapes in the tests
        "build",
        "eeglabio",  # MNE writes EEGLAB files with it: the tests read some back
        "equinox",  # docs/embedding.md holds a plan in one of its modules
        "hypothesis",
        "kubeflow-trainer-api>=2.3",  # models of JobSet's and Kubernetes' published schemas
        "pyright[nodejs]",  # brings its own node: nothing is fetched at first use
        "pytest>=8",  # strict markers and importlib mode as pyproject.toml sets them
        "pytest-xdist",
        "ruff",
        "safetensors",  # another reader of what artefact.py writes
        "scikit-learn",  # independent estimators to compare with
    ],
}

setup(
    name="eegsr_jax",
    version=VERSION,
    description="EEG super-resolution in JAX: few electrodes in, many out",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",  # what jax 0.10 asks for
    packages=find_packages(include=["eegsr_jax", "eegsr_jax.*"]),
    package_data={
        "eegsr_jax.data": ["datasets/sample/*"],
        "eegsr_jax.evaluation": ["browser/*"],
        "eegsr_jax.methods": ["priors/*"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["eegsr = eegsr_jax.commands.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
