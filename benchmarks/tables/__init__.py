"""The tables, in the order of the page of results.

To add one, write a file with a ``TABLE`` and list it below.
"""

from benchmarks.table import Table
from benchmarks.tables import (
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
    shortest_paths,
    soft_sharing,
    starting_values,
    templates,
    trained_images,
    trained_text,
    upsampling,
)

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE
    for module in (
        budget_sweep,
        starting_values,
        error_against_parameters,
        generators,
        downsampling,
        upsampling,
        mapping,
        groups,
        templates,
        hypernetworks,
        ring,
        depth_and_width,
        soft_sharing,
        shortest_paths,
        families,
        distillation,
        pruning,
        trained_images,
        trained_text,
        retrieval,
        grounding,
        question_answering,
        golf,
        golf_rates,
    )
}
