"""The report of a pruned model."""

from __future__ import annotations

import json

from torch import nn

import shapeshift
from shapeshift import prune
from tests.prunable import images, small_resnet


def test_a_report_reads_like_a_table() -> None:
    pruned = prune.hrank(small_resnet(), [images()], 0.5, progress=False)
    report = prune.report(pruned)
    lines = str(report).splitlines()
    assert [line.split() for line in lines[:2]] == [["layer", "kept", "of"], ["stem", "8", "16"]]
    assert len(lines) == len(report.layers) + 3
    assert lines[-2].startswith(f"{shapeshift.count_parameters(pruned):,} parameters, ")
    assert lines[-1].startswith(f"{report.macs:,} multiply-accumulates, ")
    assert json.loads(json.dumps(report.as_dict()))["layers"][0] == {
        "name": "stem",
        "before": 16,
        "kept": list(report.layers[0].kept),
    }
    assert prune.report(nn.Sequential(pruned)) == report
