"""The tables, in the order of their papers and of the pages of results.

To add one, write a file with a ``TABLE`` and list it below.
"""

from dataclasses import dataclass

from benchmarks.table import Table
from benchmarks.tables import (
    adapters,
    adapters_made_smaller,
    adapters_rates,
    budget_sweep,
    depth_and_width,
    distillation,
    downsampling,
    error_against_parameters,
    families,
    generators,
    golf,
    golf_rates,
    grounding,
    groups,
    hypernetworks,
    mapping,
    pruning,
    question_answering,
    retrieval,
    ring,
    scrambled_templates,
    sgd_rates,
    shortest_paths,
    soft_sharing,
    starting_values,
    templates,
    trained_images,
    trained_text,
    tuned_rates,
    upsampling,
    vision_transformer_rates,
    vision_transformers,
)


@dataclass(frozen=True)
class Paper:
    """A paper, or another origin of tables, with a page of its own.

    Attributes:
        name: The name of the page's file.
        title: The title of the page.
        tables: The tables, in the order of the page.
    """

    name: str
    title: str
    tables: tuple[Table, ...]


PAPERS = (
    Paper(
        "shapeshifter-networks",
        "Shapeshifter Networks",
        (
            error_against_parameters.TABLE,
            generators.TABLE,
            downsampling.TABLE,
            upsampling.TABLE,
            mapping.TABLE,
            groups.TABLE,
            templates.TABLE,
            hypernetworks.TABLE,
            depth_and_width.TABLE,
            distillation.TABLE,
            pruning.TABLE,
            retrieval.TABLE,
            grounding.TABLE,
            question_answering.TABLE,
        ),
    ),
    Paper("superweights", "SuperWeights", (families.TABLE,)),
    Paper("soft-sharing", "Soft sharing", (soft_sharing.TABLE, shortest_paths.TABLE)),
    Paper("rings", "Recurrent Parameter Generators", (ring.TABLE, scrambled_templates.TABLE)),
    Paper("golf", "Language models in files of some size", (golf.TABLE, golf_rates.TABLE)),
    Paper(
        "adapters", "Adapters of a frozen model", (adapters.TABLE, adapters_made_smaller.TABLE, adapters_rates.TABLE)
    ),
    Paper("trained-networks", "Trained networks made smaller", (trained_images.TABLE, trained_text.TABLE)),
    Paper(
        "defaults",
        "How the defaults were chosen",
        (
            vision_transformers.TABLE,
            vision_transformer_rates.TABLE,
            sgd_rates.TABLE,
            tuned_rates.TABLE,
            budget_sweep.TABLE,
            starting_values.TABLE,
        ),
    ),
)

TABLES: dict[str, Table] = {table.name: table for paper in PAPERS for table in paper.tables}
