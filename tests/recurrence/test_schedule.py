"""The schedule of a model's blocks: its loops, and the differences that prevent them."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn

from shapeshift.networks.wide_resnet import WideResNet
from shapeshift.recurrence import (
    fold,
    soft_share,
)
from shapeshift.recurrence.graph import mermaid
from shapeshift.recurrence.schedule import Schedule
from tests.foldable import alternate, coefficients, images, members
from tests.tolerances import assert_close


def test_what_differs_from_run_to_run_and_what_stands_in_the_way_is_said() -> None:
    torch.manual_seed(0)
    options = {"img_size": 32, "embed_dim": 16, "depth": 4, "num_heads": 2, "drop_path_rate": 0.2}
    model = soft_share(timm.create_model("vit_tiny_patch16_224", **options), 2)
    alternate(model)
    folding = fold(model, 0.999)
    (schedule,) = folding.schedules
    # The first block of the four drops no path, and has an identity in its place.
    assert schedule.blocks == (0, 1, 1, 1)
    assert schedule.settings == ("drop_path1.drop_prob", "drop_path2.drop_prob")
    assert {name.split(".")[0] for name in schedule.own} == {"norm1", "norm2", "attn", "mlp"}
    assert schedule.notes == (
        "blocks.1 has the weights of blocks.0, but has DropPath as drop_path1, not Identity: tied only",
    )
    assert schedule.notes[0] in str(folding)
    x = images(32)
    for mode in (False, True):
        model.train(mode)
        folding.module.train(mode)
        outputs = []
        for module in (model, folding.module):
            torch.manual_seed(1)
            outputs.append(module(*x))
        assert_close(outputs[1], outputs[0], "identical")
    assert [block.drop_path1.drop_prob for block in model.blocks[1:]] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    block, repeat = folding.module.blocks[1], folding.module.blocks[3]
    assert repeat.norm1.weight is model.blocks[3].norm1.weight
    assert (repeat.block, block.drop_path1.drop_prob) == ("blocks.1", pytest.approx(0.2 / 3))
    assert "blocks.1 again" in repr(repeat)
    assert not hasattr(repeat, "norm3")
    repeat.norm3 = nn.LayerNorm(16)
    assert repeat.norm3 in folding.module.modules()


def test_blocks_that_share_in_part_are_no_loop() -> None:
    torch.manual_seed(0)
    model = soft_share(WideResNet(28, 0.5), 2)
    for name in members(model):
        matrix = coefficients(model, name)
        matrix[2] = matrix[0]
        matrix[3] = torch.tensor([-matrix[1, 1], matrix[1, 0]])
    folding = fold(model, 0.9999)
    for number, schedule in enumerate(folding.schedules):
        assert schedule.blocks == (0, 1, 2)
        assert schedule.notes == (
            f"tied with earlier blocks in some of their weights, not in all: blocks.{4 * number + 2}",
        )
        (first, _), (again, _), _ = schedule.weights
        assert first == again
    assert folding.module.eval()(*(x := images())).equal(model.eval()(*x))


def test_the_loops_of_a_schedule_are_counted_and_drawn() -> None:
    torch.manual_seed(0)
    model = soft_share(WideResNet(40, 0.5), 4)
    first, second, third = (coefficients(model, name) for name in members(model))
    first[2:6] = first[:2].repeat(2, 1)  # A A A B C
    second[4:8], second[8:] = second[:4], second[:2]  # A B A B A
    third[8:] = third[2:4]  # A B C D B
    folding = fold(model, 0.9999)
    assert [schedule.blocks for schedule in folding.schedules] == [(0, 0, 0, 3, 4), (0, 1, 0, 1, 0), (0, 1, 2, 3, 1)]
    assert [schedule.loops for schedule in folding.schedules] == [{(0, 0): 2}, {(1, 0): 2}, {(3, 1): 1}]
    described = json.loads(json.dumps(folding.as_dict()))
    assert described["schedules"][1]["loops"] == [{"from": 1, "to": 0, "times": 2}]
    assert "stage2 runs blocks.7 -> blocks.8 -> blocks.7" in str(folding)
    graph = folding.mermaid()
    assert graph.count("subgraph") == graph.count("\n  end") == 3
    assert (
        """
  subgraph s1["stage2: 5 steps, 2 blocks"]
    s1b0["blocks.7<br>weights 0 1"]
    s1b1["blocks.8<br>weights 2 3"]
    s1start(( )) --> s1b0
    s1b0 -->|2x| s1b1
    s1b1 -.->|2x| s1b0
    s1b0 --> s1end(( ))
  end
"""
        in graph
    )
    assert "    s0b0 -.->|2x| s0b0\n    s0b0 --> s0b3\n    s0b3 --> s0b4\n    s0b4 --> s0end(( ))\n" in graph
    assert "    s2b3 -.-> s2b1\n" in graph


def test_names_cannot_break_a_graph() -> None:
    steps = ('a "quoted" [name]', "b<br>`c`#1; end")
    schedule = Schedule("stage1", steps, (0, 1), ((0,), (1,)), (), (), ())
    assert mermaid([schedule]).splitlines()[2:4] == [
        '    s0b0["a #34;quoted#34; #91;name#93;<br>weights 0"]',
        '    s0b1["b#60;br#62;#96;c#96;#35;1#59; end<br>weights 1"]',
    ]
    assert mermaid([]) == "flowchart LR"
