"""The masks of padding in a batch, and its samples without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shapeshift import DataError
from shapeshift.running.batches import read_batch
from shapeshift.running.padding import find_masks, split_samples

COUNTS = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])  # of three samples, the last one empty
IDS = torch.arange(15).view(3, 5)


def masks_of(batch: Any) -> dict[str, list[list[int]]]:
    found = find_masks(batch, read_batch(batch, torch.device("cpu")))
    return {name: mask.int().tolist() for name, mask in found.items()}


def samples_of(batch: Any, time_first: bool = False) -> list[dict[str, Any]]:
    inputs = read_batch(batch, torch.device("cpu"))
    samples = split_samples(inputs, find_masks(batch, inputs), time_first)
    return [{"args": sample.args, **sample.kwargs} for sample in samples]


@pytest.mark.parametrize(
    "mask",
    [
        {"attention_mask": COUNTS},
        {"attention_mask": COUNTS.bool()},
        {"attention_mask": COUNTS.float()},
        {"attention_mask": (1 - COUNTS.float()) * torch.finfo(torch.float32).min},
        {"key_padding_mask": COUNTS == 0},
        {"src_key_padding_mask": torch.zeros(3, 5).masked_fill(COUNTS == 0, -torch.inf)},
    ],
    ids=["integers", "bool", "float", "additive", "key padding", "additive key padding"],
)
def test_every_kind_of_mask_is_read(mask: dict[str, Tensor]) -> None:
    (found,) = masks_of({"input_ids": IDS, **mask}).values()
    assert found == COUNTS.tolist()


def test_labels_at_the_end_are_padding_where_there_is_no_mask() -> None:
    labels = torch.tensor([[-100, 4, -100, -100, -100], [1, 2, 3, 4, 5], [-100] * 5])
    expected = {"labels": [[1, 1, 0, 0, 0], [1] * 5, [0] * 5]}
    assert masks_of((IDS, labels)) == expected
    assert masks_of({"input_ids": IDS, "labels": labels}) == expected
    assert list(masks_of({"input_ids": IDS, "labels": labels, "attention_mask": COUNTS})) == ["attention_mask"]


@pytest.mark.parametrize(
    "batch",
    [IDS, (IDS, torch.tensor([-100, 1, 2])), (torch.randn(3, 3, 5, 5), torch.full((3, 5, 5), -100)), (IDS, IDS / 2)],
    ids=["no labels", "classes", "labels of pixels", "soft labels"],
)
def test_other_labels_are_no_mask(batch: Any) -> None:
    assert masks_of(batch) == {}


def test_the_labels_of_an_encoder_decoder_are_for_the_decoder() -> None:
    labels = torch.tensor([[1, 2, -100], [1, -100, -100], [1, 2, 3]])
    batch = {"input_ids": IDS, "decoder_input_ids": labels, "attention_mask": COUNTS, "labels": labels}
    assert masks_of(batch)["decoder_attention_mask"] == (labels != -100).int().tolist()
    first, second = samples_of(batch)
    assert first["input_ids"].tolist() == [[0, 1, 2]]
    assert first["decoder_input_ids"].tolist() == [[1, 2]]
    assert second["decoder_input_ids"].tolist() == [[1]]


def test_masks_of_one_shape_are_told_by_their_names() -> None:
    other = COUNTS.roll(1, 0)
    ids = {"input_ids": IDS, "decoder_input_ids": -IDS}
    (found,) = samples_of({**ids, "attention_mask": COUNTS, "decoder_attention_mask": other})
    assert found["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert found["decoder_input_ids"].tolist() == [[-5, -6, -7]]
    # A mask of the decoder says nothing about the encoder, nor the other way round.
    found = samples_of({**ids, "decoder_attention_mask": COUNTS})[0]
    assert [found[name].shape[1] for name in ids] == [5, 3]
    found = samples_of({**ids, "attention_mask": COUNTS})[0]
    assert [found[name].shape[1] for name in ids] == [3, 5]
    found = samples_of({"src": IDS, "tgt": IDS, "tgt_key_padding_mask": COUNTS == 0})[0]
    assert [found[name].shape[1] for name in ("src", "tgt")] == [5, 3]


def test_arguments_of_every_layout_are_cut() -> None:
    batch = {
        "x": torch.randn(5, 3, 2),
        "key_padding_mask": COUNTS == 0,
        "position_ids": torch.arange(5)[None],
        "pixel_values": torch.randn(3, 3, 4, 4),
        "lengths": torch.tensor([3, 5, 0]),
        "scale": torch.tensor(2.0),
        "features": [torch.randn(3, 5, 4), torch.randn(1)],
        "flag": True,
    }
    first, second = samples_of(batch)
    assert torch.equal(first["x"], batch["x"][:3, :1])
    assert first["key_padding_mask"].tolist() == [[False] * 3]
    assert first["position_ids"].tolist() == [[0, 1, 2]]
    assert torch.equal(second["pixel_values"], batch["pixel_values"][1:2])
    assert second["lengths"].tolist() == [5]
    assert [tensor.shape for tensor in first["features"]] == [(1, 3, 4), (1,)]
    assert first["scale"] == 2
    assert first["flag"] is True


def test_left_padding_and_choices_are_cut() -> None:
    (found, _) = samples_of({"input_ids": IDS, "attention_mask": COUNTS.flip(1)})
    assert found["input_ids"].tolist() == [[2, 3, 4]]
    choices = {"input_ids": IDS[None].repeat(2, 1, 1), "attention_mask": COUNTS[None].repeat(2, 1, 1)}
    found = samples_of(choices)
    assert [sample["input_ids"].shape for sample in found] == [(1, 1, 3), (1, 1, 5)] * 2


@pytest.mark.parametrize(
    ("batch", "time_first", "message"),
    [
        ({"input_ids": IDS, "attention_mask": torch.eye(5)[None].repeat(3, 1, 1)}, False, "no other argument starts"),
        ({"x": torch.randn(3, 8, 5), "attention_mask": COUNTS}, False, r"attention_mask has the shape \(3, 5\)"),
        ({"x": IDS[:, :3], "key_padding_mask": COUNTS[:, :3] == 0}, True, "either axis of key_padding_mask"),
        ((IDS, torch.full((3, 5), -100)), True, "either axis of labels"),
        (
            {"a": IDS, "a_key_padding_mask": COUNTS == 0, "b": IDS[:2], "b_key_padding_mask": COUNTS[:2] == 0},
            False,
            "batches of different sizes",
        ),
    ],
    ids=["square masks", "channels between", "square batch", "labels of time first", "sizes"],
)
def test_masks_that_do_not_match_are_refused(batch: Any, time_first: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        samples_of(batch, time_first)
