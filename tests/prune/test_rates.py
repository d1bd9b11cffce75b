"""Rates that meet a target, and rates of single layers."""

from __future__ import annotations

from typing import Any

import pytest

from shapeshift import prune
from shapeshift.networks.resnet import ResNet
from tests.prunable import images, kept_channels, livened, small_resnet


def test_a_dict_of_rates_prunes_its_layers_alone() -> None:
    model, x = livened(small_resnet()), images()
    kept = kept_channels(prune.hrank(model, [x], {"stages.0.0.conv1": 0.5, "stem": 0.25}, progress=False))
    changed = {layer: len(channels) for layer, channels in kept.items() if len(channels) not in (32, 64, 10)}
    assert changed == {"stem": 12, "stages.0.0.conv1": 8, "stages.0.0.conv2": 12}


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": "30%"}, {"params": 40_000}, {"macs": "4M"}], ids=str)
def test_rates_that_meet_a_target(target: dict[str, Any]) -> None:
    model, x = livened(ResNet(14, projection=True)), images()
    rates = prune.rate_for(model, [x], **target)
    assert list(rates) == list(prune.feature_ranks(model, [x], progress=False))
    report = prune.report(prune.hrank(model, [x], rates, progress=False))
    size, full = (
        (report.macs, report.macs_before) if "macs" in target else (report.parameters, report.parameters_before)
    )
    ((_, value),) = target.items()
    allowed = {0.5: full // 2, "30%": int(0.3 * full), "4M": 4_000_000}.get(value, value)
    assert 0.96 * allowed < size <= allowed
    # As equal as filters allow: no two rates further apart than one filter of the narrowest layers.
    assert max(rates.values()) - min(rates.values()) <= 1 / 16


def test_no_rate_is_needed_for_the_model_as_it_is() -> None:
    assert set(prune.rate_for(small_resnet(), [images()], params=1.0).values()) == {0.0}
