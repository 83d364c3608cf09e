"""The original of `sampling.py` in a process of its own: checked, then timed as it is told to.

    python benchmarks/sampling_worker.py CLOCK FOLDER [GOLDEN ...]

It compares the baseline with the authors' arrays in the folders GOLDEN, writes random weights and
an example to FOLDER, and says in a line of JSON what it found. Then every line of JSON that it
reads, {"batch", "first", "compiled"}, is answered by {"seconds", "peak_mb"} of one reconstruction,
by the CLOCK of the module `time`.
Two libraries in one process would share threads, memory and caches, and slow each other down.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import sampling_original as so
import torch
from sampling_original import PARTS, SHAPES, Original

STEPS, CHANNELS, SAMPLES = 50, 62, 800
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ------------------------------------------------------------------------------------------ check


def check(folder: Path) -> dict[str, float]:
    """Relative errors of the baseline on the authors' arrays that a folder holds.

    Raises:
      AssertionError: one is too large, 1e-5 for a network, 1e-4 after 50 steps; or there are none.
    """
    found: dict[str, float] = {}
    for file in sorted(folder.rglob("*.npz")):
        with np.load(file, allow_pickle=False) as arrays:
            known = "config_json" in arrays.files
            part = json.loads(str(arrays["config_json"])).get("part") if known else None
            if part not in CASES:
                continue
            for name, (output, limit) in CASES[part](_Golden(arrays)).items():
                expected = arrays[name]
                error = np.linalg.norm(output.numpy() - expected) / np.linalg.norm(expected)
                assert error < limit, f"{file.stem}, {name}: relative error {error}"
                found[f"{file.stem}/{name}"] = float(error)
    assert found, f"{folder}: none of the authors' arrays"
    return found


class _Golden:
    """Arrays of a file as tensors, and networks with the state that is there."""

    def __init__(self, arrays: Any):
        self.arrays, self.config = arrays, json.loads(str(arrays["config_json"]))

    def __getitem__(self, name: str) -> Any:
        return torch.tensor(self.arrays[name])

    def load(self, network: Any, prefix: str = "") -> Any:
        """Strict but for what the network never reads."""
        start = f"state/{prefix}"
        names = [k for k in self.arrays.files if k.startswith(start)]
        state = {k.removeprefix(start): self[k] for k in names}
        wrong = network.load_state_dict(state, strict=False)
        assert not wrong.unexpected_keys, wrong
        unread = ("t_emb.", "pos_emb.", "res_proj.")
        assert all(k.startswith(unread) for k in wrong.missing_keys), wrong
        return network.eval()

    def whole(self) -> Original:
        """All parts that the file has; the others keep random weights."""
        model = Original(SHAPES | {k: v for k, v in self.config.items() if k in PARTS})
        for part in PARTS:
            if part in self.config:
                self.load(getattr(model, part), f"{part}/")
        return model


@torch.no_grad()
def _vae(golden: _Golden) -> dict[str, tuple[Any, float]]:
    network = golden.load(so.Autoencoder(golden.config))
    mean, _ = network.encode(golden["x"])
    return {"mu": (mean, 1e-5), "recon": (network.decode(mean), 1e-5)}


@torch.no_grad()
def _conv_encoder(golden: _Golden) -> dict[str, tuple[Any, float]]:
    network = golden.load(so.ConditionEncoder(golden.config))
    return {"out": (network(golden["x"], golden["t"]), 1e-5)}


@torch.no_grad()
def _denoiser(golden: _Golden) -> dict[str, tuple[Any, float]]:
    network = golden.load(so.Denoiser(golden.config))
    x, t, cond, res = (golden[k] for k in ("x", "t", "cond", "res"))
    found = {
        "out": network(x, t, cond),
        "out_no_cond": network(x, t),
        "out_with_res": network(x, t, cond, res),
    }
    return {name: (value, 1e-5) for name, value in found.items()}


def _sampling(golden: _Golden) -> dict[str, tuple[Any, float]]:
    found = golden.whole().sample(golden["z50_normalised"], golden["noise"], 50)
    return {"steps50/out": (found, 1e-4)}


def _end_to_end(golden: _Golden) -> dict[str, tuple[Any, float]]:
    x = golden["x"].clone()
    for i, masked in enumerate(golden["masked_channels"]):
        x[i, masked] = 0
    noise, mean, std = (golden[k] for k in ("noise", "z50_mean", "z50_std"))
    return {"out": (golden.whole().reconstruct(x, noise, mean, std), 1e-4)}


CASES = {
    "vae": _vae,
    "conv_encoder": _conv_encoder,
    "denoiser": _denoiser,
    "sampling": _sampling,
    "end_to_end": _end_to_end,
}


# ---------------------------------------------------------------------------------------- timing


def inputs(batch: int) -> list[Any]:
    """EEG in microvolts, every other channel missing, noise, and statistics that change nothing."""
    rng, latent = np.random.default_rng(0), SHAPES["denoiser"]["signal_channel"]
    x = 20 * rng.standard_normal((batch, CHANNELS, SAMPLES), np.float32)
    x[:, 1::2] = 0
    noise = rng.standard_normal((batch, latent, SHAPES["denoiser"]["signal_length"]), np.float32)
    mean, std = np.zeros((1, latent, 1), np.float32), np.ones((1, latent, 1), np.float32)
    return [torch.tensor(a, device=DEVICE) for a in (x, noise, mean, std)]


def seconds(model: Original, given: list[Any], first: int) -> float:
    """Of one reconstruction, or of the first of its steps and both ends."""
    clock = getattr(time, sys.argv[1])
    begin = clock()
    model.reconstruct(*given, steps=STEPS, first=first)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def best_threads(model: Original, given: list[Any]) -> int:
    """All, or one, which is faster on a machine that is busy otherwise; from now on."""
    found = {}
    for threads in {torch.get_num_threads(), 1}:
        torch.set_num_threads(threads)
        seconds(model, given, 1)
        found[threads] = min(seconds(model, given, 2) for _ in range(3))
    best = min(found, key=lambda n: found[n])
    torch.set_num_threads(best)
    return best


def compiled(model: Original) -> Original:
    """A copy whose networks `torch.compile` makes faster at their first call."""
    found = copy.deepcopy(model)
    networks: list[Any] = [found.vae.encoder, found.vae.decoder, found.conv_encoder, found.denoiser]
    for network in networks:
        network.compile()
    return found


def peak_mb() -> float:
    """MB that this process, or on a graphics card its tensors, have held at most."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Check, write, then time what the lines of the input ask for."""
    folder, *golden = map(Path, sys.argv[2:])
    errors: dict[str, float] = {}
    for place in golden:
        errors |= check(place)
    torch.manual_seed(0)
    model = Original().eval()
    state = {
        f"{part}/{name}": value.numpy()
        for part in PARTS
        for name, value in getattr(model, part).state_dict().items()
    }
    np.savez(folder / "state.npz", **state)
    (folder / "config.json").write_text(json.dumps(SHAPES))
    model = model.to(DEVICE)
    models, held, given = {False: model}, peak_mb(), {2: inputs(2)}
    example = {"eeg": given[2][0], "noise": given[2][1], "out": model.reconstruct(*given[2])}
    np.savez(folder / "example.npz", **{k: v.cpu().numpy() for k, v in example.items()})
    threads = best_threads(model, given[2]) if DEVICE == "cpu" else torch.get_num_threads()
    head = {"errors": errors, "threads": threads, "device": DEVICE, "torch": torch.__version__}
    print(json.dumps(head | {"held_mb": held}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if job["compiled"] and True not in models:
            models[True] = compiled(model)
        if job["batch"] not in given:
            given = {job["batch"]: inputs(job["batch"])}
            seconds(models[job["compiled"]], given[job["batch"]], 1)
        found = seconds(models[job["compiled"]], given[job["batch"]], job["first"])
        print(json.dumps({"seconds": found, "peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    main()
