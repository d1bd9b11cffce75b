"""The papers' own recipes: networks, trainings and options of sharing that a table can be run under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import timm
from torch import nn

from benchmarks.experiments.families import EnsembleNetwork
from benchmarks.experiments.networks import Network, OtherNetwork, WideNetwork, compressed, learned
from benchmarks.row import Row
from benchmarks.table import Table
from benchmarks.tables import TABLES
from shapeshift.experiments.data import Images
from shapeshift.experiments.training import Recipe

# The small networks' budgets as shares of their sizes, rounded; one budget for several networks is a number.
BUDGETS = {"3k": "2%", "4k": "2.5%", "6k": "3.5%", "12k": "7%", "25k": "14%", "50k": "28%"}


@dataclass(frozen=True)
class TimmNetwork(Network):
    """A network of timm.

    Attributes:
        title: The name of the network in tables and patterns.
        model: The name of the model in timm.
    """

    title: str
    model: str

    def __str__(self) -> str:
        return self.title

    def build(self, data: Images) -> nn.Module:
        model: nn.Module = timm.create_model(self.model, num_classes=data.num_classes, in_chans=data.channels)
        return model


@dataclass(frozen=True)
class PaperRecipe:
    """What the papers' scripts do where a table of ours is smaller.

    Attributes:
        name: The name on the command line.
        training: The recipe of the trainings.
        networks: For each table, the networks that take the place of its own, by the names of these. Rows of other
            networks are left out.
        changes: For some tables, the fields in which their recipe differs.
        left_out: For some tables, patterns of rows that the paper does not have.
        options: For some methods, the options in which their rows differ, such as a mapping by layers' names.
        sharing: Fields of the config for rows that compress a network, unless they set them themselves.
        search: The fields in which the recipe of a search for groups differs.
        data: The options of the data set.
        datasets: The data sets that the recipe is for.
    """

    name: str
    training: Recipe
    networks: Mapping[str, Mapping[str, Network]]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sharing: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("cifar100", "cifar10")

    def apply(self, table: Table) -> Table:
        """Return a table with the papers' networks, budgets, options and recipe. Its name ends in the recipe's.

        Raises:
            ValueError: If the recipe has no networks for the table.
        """
        if table.name not in self.networks:
            raise ValueError(f"{table.name} has no recipe {self.name!r}; choose from {', '.join(self.networks)}")
        rows = {row.key: found for row in table.rows if (found := self._row(table.name, row))}
        claims = (
            replace(
                claim,
                pairs=tuple(
                    (rows[one].key, rows[other].key) for one, other in claim.pairs if {one, other} <= set(rows)
                ),
            )
            for claim in table.claims
        )
        training = replace(self.training, **self.changes.get(table.name, {}))
        return replace(
            table,
            name=f"{table.name}_{self.name}",
            title=f"{table.title}, by the recipe `{self.name}`",
            recipe=self.name,
            rows=tuple({row.key: row for row in rows.values()}.values()),
            claims=tuple(claim for claim in claims if claim.pairs),
            adapt=lambda task: replace(task, recipe=training, options=dict(self.data)),
        )

    def _row(self, table: str, row: Row) -> Row | None:
        networks = self.networks[table]
        if str(row.network) not in networks or fnmatchcase(row.key, self.left_out.get(table, "")):
            return None
        options = {**row.options, **self.options.get(row.method, {})}
        if row.build in (compressed, learned) and options.get("combine") != "superweights":
            options = {**self.sharing, **options}
        if row.build is learned:
            options["search"] = dict(self.search)
        taught = row.distillation and replace(row.distillation, teacher=networks[str(row.distillation.teacher)])
        hidden = {"cutout": 16} if "cutout" in row.recipe else {}
        return replace(
            row,
            network=networks[str(row.network)],
            budget=BUDGETS.get(row.budget, row.budget)
            if table != "depth_and_width"
            else row.budget.replace("25k", "5M"),
            options=options,
            recipe={**row.recipe, **hidden},
            distillation=taught,
        )


WRN_28_10 = WideNetwork(28, 10)
ONE_NETWORK = ("generators", "downsampling", "upsampling", "mapping", "groups", "hypernetworks")

CIFAR = PaperRecipe(
    "paper",
    Recipe(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=5e-4,
        milestones=(60, 120, 160),
        factor=0.2,
        crop=4,
        flip=True,
        cutout=16,
        bfloat16=True,
    ),
    networks={
        **{name: {"WRN-16-1": WRN_28_10} for name in ONE_NETWORK},
        "error_against_parameters": {
            "WRN-16-0.25": WideNetwork(28, 2),
            "WRN-16-0.5": WideNetwork(28, 4),
            "WRN-16-1": WRN_28_10,
            "WRN-16-2": WideNetwork(28, 14),
        },
        "templates": {"WRN-16-1": WRN_28_10, "WRN-16-0.25": WideNetwork(16, 4)},
        "depth_and_width": {
            **{f"WRN-{depth}-1": WideNetwork(depth, 10) for depth in (10, 16, 22, 28)},
            "WRN-16-0.5": WideNetwork(16, 5),
            "WRN-16-2": WideNetwork(16, 14),
        },
        "distillation": {
            "WRN-28-1": WideNetwork(28, 4),
            "WRN-16-0.25": WideNetwork(16, 4),
            "WRN-28-0.25": WideNetwork(28, 2),
            "WRN-10-0.25": WideNetwork(16, 2),
            "ResNet-20-0.25": OtherNetwork("ResNet-56", "resnet", {"depth": 56, "projection": True}),
        },
        "pruning": {
            "VGG-16-0.25": OtherNetwork("VGG-16", "vgg", {"depth": 16}),
            "ResNet-56-0.25": OtherNetwork("ResNet-56", "resnet", {"depth": 56, "projection": True}),
            "ResNet-110-0.25": OtherNetwork("ResNet-110", "resnet", {"depth": 110, "projection": True}),
            "DenseNet-40-6": OtherNetwork("DenseNet-40", "densenet", {"depth": 40, "growth": 12, "compression": 1.0}),
            "GoogLeNet-0.125": OtherNetwork("GoogLeNet", "googlenet", {}),
        },
        "families": {
            str(TABLES["families"].rows[0].network): EnsembleNetwork(
                tuple(WideNetwork(depth, width) for depth, width in ((28, 7), (28, 4), (16, 7), (16, 4)))
            )
        },
        "soft_sharing": {"WRN-28-0.25": WRN_28_10, "WRN-28-0.5": WideNetwork(28, 14)},
    },
    changes={"soft_sharing": {"cutout": 0}, "distillation": {"cutout": 0}, "pruning": {"cutout": 0}},
    left_out={"distillation": "*SRRL, *"},
    options={
        "manual": {
            "mapping": {
                "stem": "stage1",
                "blocks.[0-3].*": "stage1",
                "blocks.[4-7].*": "stage2",
                "blocks.*": "stage3",
                "head": "stage3",
            }
        }
    },
    sharing={"combine": "emb", "max_templates": 8, "upsample": "inter"},
    search={"epochs": 15, "milestones": (8, 13), "factor": 0.1},
)

# The papers' scripts have no schedule for ImageNet: this is that of He et al. 2016.
IMAGENET = PaperRecipe(
    "imagenet",
    replace(CIFAR.training, epochs=90, batch_size=256, milestones=(30, 60), factor=0.1, weight_decay=1e-4, crop=28),
    networks={
        name: {"WRN-16-1": TimmNetwork("WRN-50-2", "wide_resnet50_2")}
        for name in ("downsampling", "upsampling", "mapping", "groups", "templates")
    },
    changes={name: {"cutout": 0} for name in ("downsampling", "upsampling", "mapping", "groups", "templates")},
    left_out={"upsampling": "*/reduced/*"},
    options={"manual": {"mapping": {"layer[34].*": "late", "fc": "late", "*": "early"}}},
    sharing=CIFAR.sharing,
    search=CIFAR.search,
    data={"side": 224},
    datasets=("image_folder",),
)

RECIPES = {recipe.name: recipe for recipe in (CIFAR, IMAGENET)}
PAPER_TABLES = {
    f"{name}_{recipe.name}": recipe.apply(TABLES[name]) for recipe in RECIPES.values() for name in recipe.networks
}
