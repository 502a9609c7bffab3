"""The checks of all rows, from what SQL counts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from worker.verification.lengths import UsualLength
from worker.verification.result import Check, Figure, Status

EXAMPLES = 10  # record ids of a finding
MOST_PENDING = 0.01  # of the texts: more is a backfill that has not ended, not edits of today


@dataclass(slots=True)
class Findings:
    """How many rows have each finding of verify_embeddings, and the ids of some."""

    counts: Counter[str] = field(default_factory=Counter)
    record_ids: dict[str, list[str]] = field(default_factory=dict)

    def add(self, finding: str, found: int, record_ids: list[str]) -> None:
        """Add the rows of a range."""
        known = self.record_ids.setdefault(finding, [])
        known += record_ids[: EXAMPLES - len(known)]
        self.counts[finding] += found


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched column, as the commands that repair it name it."""

    table: str
    column: str
    is_in_chunks: bool = False

    @property
    def options(self) -> str:
        return f"--table {shlex.quote(self.table)} --column {shlex.quote(self.column)}"

    @property
    def recheck(self) -> str:
        return f"Run `worker recheck {self.options}`, then `worker process`."

    @property
    def repair(self) -> str:
        """How to get a vector back in the cheapest way that there is."""
        column = f"{shlex.quote(self.table)} --column {shlex.quote(self.column)}"
        return f"Run `worker verify {column} --repair`, then `worker process`."

    @property
    def requeue(self) -> str:
        return f"Run `worker requeue {self.options} --id ID` for each, then `worker process`."

    @property
    def renew(self) -> str:
        """How to replace vectors that are wrong by themselves."""
        if self.is_in_chunks:  # which are not embedded again while they are stored
            return f"Delete these chunks. {self.requeue}"
        return self.requeue


@dataclass(frozen=True, slots=True)
class _Case:
    """A finding, the words for its rows, and how to repair them."""

    finding: str
    words: str
    cure: str
    status: Status = "problem"


def row_checks(findings: Findings, watched: Watched, usual: UsualLength | None) -> list[Check]:
    """Return the checks of all rows of a column."""
    counts = findings.counts
    figures = {name: counts[name] for name in ("rows", "texts", "vectors", "chunks")}
    return [
        _check(name, findings, cases, figures if name == "missing" else {})
        for name, cases in (_text_cases(watched, counts) | _vector_cases(watched, usual)).items()
    ]


def _text_cases(watched: Watched, counts: Mapping[str, int]) -> dict[str, list[_Case]]:
    """What can be wrong with texts: they have no vector, or that of an earlier text."""
    retry = f"`worker status` shows why; `worker requeue --failed {watched.options}` tries again."
    pending = _status_of_pending(counts)
    wait = "Run `worker process`, or wait for the workers, then verify again."
    enqueue = f"Run `worker backfill {watched.options}`, then `worker process`."
    correct = "Correct the source, the filter or these rows."
    return {
        "readable": [_Case("unreadable", "rows whose text or filter raises an error", correct)],
        "missing": [
            _Case("pending", "texts without a vector, whose job is pending", wait, pending),
            _Case("failed", "texts without a vector, whose job failed", retry),
            _Case("skipped", "texts without a vector, skipped as empty", watched.recheck),
            _Case("unqueued", "texts without a vector and without a job", enqueue),
            _Case("lost", "texts whose vector was removed", watched.repair),
        ],
        "stale": [
            _Case("outdated_pending", "vectors of an earlier text, to be replaced", wait, pending),
            _Case("outdated_failed", "vectors of an earlier text, whose job failed", retry),
            _Case("stale", "texts that changed, unknown to the queue", watched.recheck),
        ],
    }


def _vector_cases(watched: Watched, usual: UsualLength | None) -> dict[str, list[_Case]]:
    """What can be wrong with vectors."""
    clear = f"{watched.recheck} Set those that are left to null."
    renew = (
        "To embed these rows again, set their vectors to null, and run `worker backfill"
        f" {watched.options}`."
    )
    odd = "vectors whose length is far from that of the others"
    odd_status: Status = "problem" if usual and usual.is_uniform else "note"
    return {
        "model": [_Case("other_model", "vectors of another model", watched.recheck)],
        "recorded": [
            _Case("unrecorded", "vectors without a job, whose text is not known", renew, "note")
        ],
        "without_text": [
            _Case("without_text", "vectors of rows without a text, or outside the filter", clear)
        ],
        "overwritten": [
            _Case("overwritten", "vectors that are not the ones that were written", watched.repair)
        ],
        "width": [_Case("wrong_width", "vectors of another width", watched.renew)],
        "length": [
            _Case("zero", "vectors of zeros, which no search finds", watched.renew),
            _Case("odd_length", odd, watched.renew, odd_status),
        ],
    }


def _status_of_pending(counts: Mapping[str, int]) -> Status:
    pending = counts["pending"] + counts["outdated_pending"]
    return "problem" if pending > MOST_PENDING * counts["texts"] else "note"


def _check(
    name: str, findings: Findings, cases: list[_Case], figures: Mapping[str, Figure]
) -> Check:
    counts = findings.counts
    found = [case for case in cases if counts[case.finding]]
    figures = {**figures, **{case.finding: counts[case.finding] for case in cases}}
    if not found:
        return Check(name, "ok", figures)
    return Check(
        name,
        "problem" if any(case.status == "problem" for case in found) else "note",
        figures,
        "; ".join(f"{case.words}: {counts[case.finding]}" for case in found),
        " ".join(dict.fromkeys(case.cure for case in found)),
        _examples(findings, found),
    )


def _examples(findings: Findings, cases: list[_Case]) -> list[str]:
    """Some of the rows of the cases in turns, so that no case is hidden by the others."""
    turns = zip_longest(*(findings.record_ids.get(case.finding, []) for case in cases))
    return [record for turn in turns for record in turn if record is not None][:EXAMPLES]
