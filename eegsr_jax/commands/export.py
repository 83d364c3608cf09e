"""Write a run as files that run with JAX alone: on CPU, CUDA and TPU, without this package.

eegsr export RUN OUT [--samples=N] [--overwrite]

OUT is a folder: programs (StableHLO), the plan as safetensors, and card.json, which says what they
expect. `eegsr_jax.load_exported(OUT)` calls them. They run with releases of jax up to half a year
newer than the one that wrote them: keep RUN, to export it again. Run those only that you trust.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from eegsr_jax.artefact import Origin
from eegsr_jax.export import export
from eegsr_jax.training.run import Card, load, load_card

ARGUMENTS = ("RUN", "OUT")


def define_flags() -> flags.FlagValues:
    """Of what length, and over what."""
    values = flags.FlagValues()
    text = "Samples of every window; default: any number, or what the method is bound to."
    flags.DEFINE_integer("samples", None, text, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace an export that is there.", flag_values=values)
    return values


def run(values: flags.FlagValues, folder: str, out: str) -> None:
    """Writes the folder, and says what is in it."""
    origin = origin_of(load_card(folder))
    method, params, where = load(folder)
    card = export(
        method,
        params,
        where,
        out,
        origin=origin,
        samples=values.samples,
        overwrite=values.overwrite,
    )
    length = "any number of" if card.samples is None else str(card.samples)
    print(
        f"{out}: {origin.method}, {len(card.observed)} channels in, {len(card.target)} out, "
        f"{length} samples at {origin.sfreq:g} Hz; {', '.join(card.platforms)}"
    )
    for file in card.files:
        print(f"  {file.name:<18}{(Path(out) / file.name).stat().st_size / 1000:,.0f} kB")
    print(f"by jax {card.versions.jax}; a jax released after {card.export_again_by} may refuse it")


def origin_of(card: Card) -> Origin:
    """What an export says of the run that it was made of."""
    step = card.experiment.preprocessing
    return Origin(
        method=card.experiment.method,
        sfreq=card.sfreq,
        reference=card.reference,
        l_freq=step.l_freq,
        h_freq=step.h_freq,
        notch=step.notch,
        scale="as recorded: scalp EEG is some 1e-6 to 1e-4 V; 1 to 100 would be microvolts",
        dataset=card.experiment.dataset,
        recordings=card.recordings,
        citation=card.citation,
        licence=card.licence,
    )
