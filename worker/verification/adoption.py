"""Judges whether the stored vectors of a column can count as made by a model."""

from __future__ import annotations

from worker.errors import AdoptionRefused
from worker.verification.comparison import Comparison
from worker.verification.lengths import LEAST_TOLERANCE
from worker.verification.result import Check
from worker.verification.rows import Watched
from worker.verification.samples import check_sample

OTHER_VECTORS = (
    "Likely causes: another model or version; a prompt or a template around the text"
    " (--document-prompt, --source); only a chunk of the text was embedded; another column."
    " Correct the command, or leave out --adopt and clear the vectors, so that all are embedded."
)
SOME_OTHER_VECTORS = (
    "Likely causes: these texts changed after they were embedded, or were too long for the model."
    " Let the other tool finish its queue, or set these vectors to null: their rows are pending"
    " then."
)
OTHER_LENGTHS = (
    "They were normalised, or the model does that: `update … set … = l2_normalize(…)` gives all of"
    " them the length 1. Or leave out --adopt and clear the vectors, so that all are embedded."
)


def check_adoption(comparison: Comparison, model: str, watched: Watched) -> Check:
    """Check a sample of vectors that are to be adopted. Raises AdoptionRefused."""
    check = check_sample(comparison, {}, watched)
    if not comparison.cosines:
        raise AdoptionRefused(
            f"{model} embeds none of {comparison.refused} sampled texts",
            "Name a model that takes such texts, or --source as it was embedded.",
        )
    if check.status == "problem":
        raise _other_vectors(comparison, check, model)
    if not check.conclusive:
        raise AdoptionRefused(f"the vectors were {check.cause}", check.cure)
    lengths = [share for share in comparison.lengths.values() if abs(share - 1) > LEAST_TOLERANCE]
    if lengths:
        raise AdoptionRefused(
            f"{len(lengths)} of {len(comparison.lengths)} sampled vectors have the direction that"
            f" {model} gives, but {min(lengths):.4g} to {max(lengths):.4g} times its length",
            OTHER_LENGTHS,
        )
    return check


def _other_vectors(comparison: Comparison, check: Check, model: str) -> AdoptionRefused:
    below, compared = comparison.below, len(comparison.cosines)
    are_most = 2 * len(below) > compared
    return AdoptionRefused(
        f"{len(below)} of {compared} sampled vectors are not those that {model} gives for their"
        f" text: cosines from {check.figures['lowest']} on, and {check.figures['gate']} is needed;"
        f" records {', '.join(check.record_ids)}",
        OTHER_VECTORS if are_most else SOME_OTHER_VECTORS,
    )
