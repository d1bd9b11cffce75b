"""Golden numbers of any sizes, computed with NumPy by the definitions of their format."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def write_hrank(
    folder: Path,
    filters: Sequence[int],
    batch_sizes: Sequence[int] = (3, 1),
    maps: tuple[int, int, int] = (9, 6, 11),
    rates: Sequence[float] = (0.0, 0.29, 0.5, 0.58, 0.9),
    chain: Sequence[int] = (2, 5, 8, 4),
) -> None:
    """Write ``hrank.npz``.

    Args:
        folder: the folder of the file.
        filters: the sizes f of the arrays ``syn{f}_*``.
        batch_sizes: the number of images in each batch.
        maps: the number of feature maps of an image, their height and their width.
        rates: the shares of filters to drop.
        chain: the channels of the images, and then the filters of each layer of the chain.
    """
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {"num_batches": np.array(len(batch_sizes)), "batch_sizes": np.array(batch_sizes)}
    arrays["rates"] = np.array(rates)
    seen: list[Array] = []
    for number, size in enumerate(batch_sizes):
        arrays[f"maps{number}"] = batch = _maps(rng, size, *maps)
        arrays[f"ranks{number}"] = ranks = _ranks(batch)
        seen.extend(ranks)
        arrays[f"mean_after{number}"] = np.mean(seen, 0, dtype=np.float32)
    arrays |= _masks("from_maps", arrays[f"mean_after{len(batch_sizes) - 1}"], rates)
    for count in filters:
        arrays[f"syn{count}_rank"] = ranks = rng.permutation(3 * count)[:count].astype(np.float32)
        arrays |= _masks(f"syn{count}", ranks, rates)
    arrays["tie_rank"] = ties = rng.integers(0, 4, 23).astype(np.float32)
    stable = _masks("tie", ties, rates)
    arrays |= {
        "tie_mask_stable": stable["tie_mask"],
        "tie_mask_reference": _masks("", ties[::-1], rates)["_mask"][:, ::-1],
    }
    arrays["tie_pruned"] = stable["tie_pruned"]
    arrays["chain_rates"] = rng.choice(rates, len(chain) - 1)
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(chain)):
        arrays[f"chain_rank{layer + 1}"] = ranks = rng.permutation(outputs).astype(np.float32)
        mask = _masks("", ranks, [arrays["chain_rates"][layer]])["_mask"][0]
        for number, shape in enumerate([(outputs, inputs, 3, 3), (outputs,), (outputs,), (outputs,)], 4 * layer):
            arrays[f"chain_param{number}"] = value = rng.standard_normal(shape)
            arrays[f"chain_masked{number}"] = value * mask.reshape(-1, *[1] * (value.ndim - 1))
    np.savez(folder / "hrank.npz", **arrays)


def write_soft_share(folder: Path, shapes: Sequence[tuple[int, int]]) -> None:
    """Write ``soft_share.npz`` with similarity matrices of some numbers of layers and templates, and no convolution."""
    rng = np.random.default_rng(1)
    arrays: dict[str, Array] = {"num_cases": np.array(0), "num_lsm": np.array(len(shapes))}
    for number, shape in enumerate(shapes):
        arrays[f"lsm{number}_coeffs"] = rows = rng.standard_normal(shape)
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        arrays[f"lsm{number}_matrix"] = np.abs(units @ units.T)
    np.savez(folder / "soft_share.npz", **arrays)


def _maps(rng: np.random.Generator, images: int, count: int, height: int, width: int) -> Array:
    """Draw feature maps of every rank."""
    maps = np.zeros((images, count, height, width))
    for place in np.ndindex(images, count):
        rank = rng.integers(0, min(height, width) + 1)
        maps[place] = rng.standard_normal((height, rank)) @ rng.standard_normal((rank, width))
    return maps.astype(np.float32)


def _ranks(maps: Array) -> Array:
    """Count the singular values above the largest one times max(H, W) times the epsilon of float32."""
    values = np.linalg.svd(maps.astype(np.float64), compute_uv=False)
    threshold = values[..., :1] * max(maps.shape[-2:]) * 2.0**-23
    return (values > threshold).sum(-1)


def _masks(name: str, ranks: Array, rates: Sequence[float]) -> dict[str, Array]:
    """Return the masks and the numbers of dropped filters: of floor(rate * f) with the lowest ranks."""
    order = np.argsort(ranks, kind="stable")
    dropped = [int(rate * len(ranks)) for rate in rates]
    masks = np.ones((len(rates), len(ranks)), dtype=np.int64)
    for mask, count in zip(masks, dropped, strict=True):
        mask[order[:count]] = 0
    return {f"{name}_mask": masks, f"{name}_pruned": np.array(dropped)}
