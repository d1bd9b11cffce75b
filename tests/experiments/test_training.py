"""The plain training loop of scripts and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shapeshift
from shapeshift.errors import ConfigError
from shapeshift.experiments.augmentation import crop, cut_out, flip
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe, error, train
from shapeshift.networks.wide_resnet import WideResNet
from tests.processes import WORLD, needs_gloo, spawn
from tests.tolerances import assert_close


@pytest.mark.parametrize(("side", "most"), [(1, 1), (4, 16), (5, 25)])
def test_a_square_of_each_image_is_hidden(side: int, most: int) -> None:
    images = torch.rand(500, 3, 8, 10) + 1
    cut = cut_out(images, side, torch.Generator().manual_seed(0))
    hidden = cut == 0
    assert torch.equal(cut[~hidden], images[~hidden])
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden)), "all channels of a pixel are hidden together"
    sizes = hidden[:, 0].flatten(1).sum(1)
    assert sizes.max() == most
    assert sizes.min() >= 1
    rows, columns = hidden[:, 0].any(2).sum(1), hidden[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, sizes), "what is hidden is a rectangle"
    assert hidden[:, 0].any(0).all(), "every pixel has a chance"


def test_an_image_is_moved_and_filled_with_its_reflection() -> None:
    images = torch.rand(400, 2, 5, 7)
    moved = crop(images, 2, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    places = set()
    for image, wide in zip(moved, padded, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(wide[:, y : y + 5, x : x + 7], image)]
        assert len(fits) == 1, "each image is one crop of its padded image"
        places.update(fits)
    assert len(places) == 25, "every place has a chance"
    assert moved.is_contiguous()


def test_images_that_are_too_small_for_a_crop_are_refused() -> None:
    images = torch.rand(2, 1, 4, 8)
    assert crop(images, 3, torch.Generator()).shape == images.shape
    with pytest.raises(ConfigError, match="crop=4 for images of 4 x 8 pixels: give less"):
        crop(images, 4, torch.Generator())


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(1000, 2, 3, 4)
    flipped = flip(images, torch.Generator().manual_seed(0))
    mirrored = torch.tensor([not torch.equal(new, old) for new, old in zip(flipped, images, strict=True)])
    assert torch.equal(flipped[mirrored], images[mirrored].flip(-1))
    assert 400 < mirrored.sum() < 600


@pytest.mark.parametrize("change", [partial(cut_out, side=4), partial(crop, padding=2), flip])
def test_the_same_seed_makes_the_same_changes(change: Callable[..., Tensor]) -> None:
    images = torch.rand(8, 1, 8, 8) + 1
    first, second, other = (change(images, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


RECIPES = [
    Recipe(20, 8),
    Recipe(20, 8, 0.02, optimizer="adamw"),
    Recipe(40, 8, cutout=1),
    Recipe(40, 8, flip=True),
    Recipe(60, 8, cutout=1, flip=True),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains(recipe: Recipe) -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    images = torch.zeros(40, 1, 4, 4)
    images[torch.arange(40), 0, labels, :] = 1.0
    data = Images(images, labels, num_classes=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert error(model, data) > 25
    train(model, data, recipe, seed=0)
    assert error(model, data) == 0


@pytest.mark.parametrize(
    "recipe", [Recipe(1, 8), Recipe(1, 8, crop=2), Recipe(1, 8, flip=True), Recipe(1, 8, cutout=2)]
)
def test_training_images_are_changed_as_the_recipe_says(recipe: Recipe) -> None:
    data = Images(torch.rand(16, 1, 4, 4), torch.arange(16) % 2, num_classes=2)
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train(model, data, recipe, seed=0)
    changed = sum(not any(torch.equal(image, given) for given in data.images) for image in torch.cat(seen))
    assert (changed > 0) == (recipe != Recipe(1, 8))


def test_the_learning_rate_falls_at_milestones() -> None:
    recipe = Recipe(learning_rate=0.5, milestones=(2, 3), factor=0.2)
    optimizer = recipe.start([{"params": [nn.Parameter(torch.zeros(1))]}])
    schedule = recipe.schedule(optimizer, batches=2)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5] * 4 + [0.1] * 2 + [0.02] * 2)


def test_autocast_trains_in_bfloat16() -> None:
    kinds = []

    class Noting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            out = super().forward(input)
            kinds.append(out.dtype)
            return out

    data = Images(torch.randn(4, 1, 2, 2), torch.arange(4) % 2, num_classes=2)
    for bfloat16, kind in ((True, torch.bfloat16), (False, torch.float32)):
        train(nn.Sequential(nn.Flatten(), Noting(4, 2)), data, Recipe(epochs=1, bfloat16=bfloat16), seed=0)
        assert kinds.pop() == kind


@pytest.mark.parametrize("milestones", [(), (2,)])
def test_a_training_that_was_stopped_ends_as_it_would_have(tmp_path: Path, milestones: tuple[int, ...]) -> None:
    data = Images(torch.randn(24, 1, 8, 8), torch.arange(24) % 3, num_classes=3)
    recipe = Recipe(epochs=4, batch_size=8, crop=2, flip=True, cutout=2, milestones=milestones)
    checkpoint = tmp_path / "folder" / "state.pt"

    def run(stop: int = 99, **options: Path) -> tuple[nn.Module, int]:
        torch.manual_seed(0)
        model = shapeshift.compress(WideResNet(10, 0.25, 3, in_channels=1, dropout=0.3), "50%", seed=0)
        done = 0

        def on_epoch() -> None:
            nonlocal done
            done += 1
            if done > stop:
                raise KeyboardInterrupt

        train(model, data, recipe, seed=0, on_epoch=on_epoch, **options)
        return model, done

    whole, _ = run()
    with pytest.raises(KeyboardInterrupt):
        run(stop=2, checkpoint=checkpoint)
    model, done = run(checkpoint=checkpoint)
    assert done == 2
    again, done = run(checkpoint=checkpoint)
    assert done == 0
    for name, entry in whole.state_dict().items():
        assert torch.equal(entry, model.state_dict()[name]), name
        assert torch.equal(entry, again.state_dict()[name]), name


DATA = Images(torch.linspace(-1, 1, 16 * 4).view(16, 1, 2, 2), torch.arange(16) % 3, num_classes=3)
RECIPE = Recipe(epochs=2, batch_size=8, flip=True)


def trained_linear(checkpoint: Path | None = None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), shapeshift.compress(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), "80%"))
    train(model, DATA, RECIPE, seed=0, checkpoint=checkpoint)
    with torch.inference_mode():
        found: Tensor = model(DATA.inputs)
    return found


def train_in_a_group(rank: int, folder: Path) -> None:
    torch.save(trained_linear(folder / "state.pt"), folder / f"{rank}.pt")


@needs_gloo
def test_processes_share_each_batch(tmp_path: Path) -> None:
    spawn(train_in_a_group, tmp_path)
    alone = trained_linear()
    for rank in range(WORLD):
        assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, "reordered")
    assert (tmp_path / "state.pt").exists()
