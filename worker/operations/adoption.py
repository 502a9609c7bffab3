"""Takes over a column that another tool has filled, with its vectors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event

from worker.embedders.registry import check_model
from worker.errors import DatabaseError, SettingsError
from worker.operations.backfill import backfill_column
from worker.operations.comparing import SampledModel
from worker.operations.opening import ModelKey
from worker.operations.watching import WatchPlan, WatchRequest, plan_watch
from worker.queue import CallSource, Target, WatchOptions
from worker.queue.portion import JOBS_IN_ONE_CALL
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings
from worker.verification.adoption import check_adoption
from worker.verification.result import Check
from worker.verification.rows import Watched

SAMPLE = 20
"""How many texts are embedded for a comparison, besides the canaries."""
ROUNDS = 3  # over the table, while others hold rows
PAUSE = 1.0  # seconds between two of them


@dataclass(slots=True)
class Adoption:
    """A column that was taken over. `sample`: the comparison; None: no vector was without a job.

    `adopted`: vectors that count as made by `model` (its full name). `pending`: rows that are to be
    embedded, as they lack a vector or have one that is not of the model. `left_alone`: vectors of
    rows without a text, or outside the filter. `locked`: rows that another session held. `tokens`
    and `cost` (US dollars): of the sample; None: not known.
    """

    target: Target
    model: str
    sample: Check | None
    tokens: int | None
    cost: float | None
    adopted: int = 0
    pending: int = 0
    left_alone: int = 0
    locked: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether each row has a job. Otherwise the same call goes on."""
        return not self.locked


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """A column whose vectors can be adopted. Nothing is changed before `apply`."""

    watch: WatchPlan
    model: SampledModel
    sample: Check | None

    def apply(
        self,
        *,
        stop: Event | None = None,
        on_range: Callable[[int], None] = lambda adopted: None,
        source: CallSource = "api",
    ) -> Adoption:
        """Watch the column, adopt its vectors, and enqueue the rows that lack one.

        Set `stop` from another thread to end after the current range. `on_range` gets how many
        vectors were adopted so far. What was done stays, and the same call goes on.
        """
        queue, stop = self.watch.queue, stop or Event()
        target = self.watch.apply(source)
        tokens, cost = self.model.spent
        adoption = Adoption(target, self.model.full_name, self.sample, tokens, cost)
        try:
            if self.sample:
                self._adopt(adoption, stop, on_range)
        finally:
            if adoption.adopted:
                _audit(queue, adoption, source)
        if not stop.is_set():
            adoption.pending += backfill_column(queue, target, JOBS_IN_ONE_CALL, stop=stop)
        adoption.target = queue.target(target.table_name, target.embedding_column)
        return adoption

    def _adopt(self, adoption: Adoption, stop: Event, on_range: Callable[[int], None]) -> None:
        """Go through the table until no row is locked, at most ROUNDS times."""
        for number in range(ROUNDS):
            if number and (not adoption.locked or stop.wait(PAUSE)):
                return
            adoption.left_alone = adoption.locked = 0
            after: str | None = None
            while not stop.is_set():
                found = self.watch.queue.adopt(
                    adoption.target, self.model.full_name, self.model.width, after
                )
                adoption.adopted += found.adopted
                adoption.pending += found.pending
                adoption.left_alone += found.left_alone
                adoption.locked += found.locked
                on_range(adoption.adopted)
                after = found.looked_to
                if after is None:
                    break


def adopt(
    queue: PostgresQueue,
    settings: Settings,
    table: str,
    column: str,
    model: str,
    *,
    source: str | None = None,
    options: WatchOptions | None = None,
    stop: Event | None = None,
) -> Adoption:
    """Watch a column that another tool has filled. Its vectors count as made by `model`.

    Before anything is changed, SAMPLE texts are embedded and compared with their vectors. Raises
    AdoptionRefused if they differ, and SettingsError if the column cannot be watched so.
    """
    request = WatchRequest(table, column, source, options or WatchOptions())
    plan = plan_adoption(queue, settings, request, model)
    adoption = plan.apply(stop=stop)
    plan.watch.build_index(adoption.target)
    return adoption


def plan_adoption(
    queue: PostgresQueue, settings: Settings, wanted: WatchRequest, model: str
) -> AdoptionPlan:
    """Compare a sample of the vectors of a column with a model. See `adopt`."""
    plan = plan_watch(queue, settings, adopting(wanted, model))
    _check_watched(plan, model)
    request = plan.request
    sample = queue.sample_adoptable(
        request.table, request.source, request.column, SAMPLE, **request.options
    )
    stored = [each for each in sample if each.vector.any()]  # zeros are embedded again
    sampled = SampledModel(settings, _key_of(plan, model))
    if not stored and not plan.before:
        raise SettingsError(
            f"column {wanted.column} of table {wanted.table} has no vector of a text to adopt",
            "Leave out --adopt, or name the column and the source of the vectors.",
        )
    if not stored:
        return AdoptionPlan(plan, sampled, None)
    comparison = sampled.compare(stored)
    watched = Watched(wanted.table, wanted.column)
    return AdoptionPlan(plan, sampled, check_adoption(comparison, sampled.full_name, watched))


def adopting(wanted: WatchRequest, model: str) -> WatchRequest:
    """Return the request with the model whose vectors are adopted, and without a chat model.

    Raises SettingsError if a column that is watched so has no vectors to adopt.
    """
    check_model(model)
    options = wanted.options
    contradictions = {
        "--create-column": wanted.create_column,
        "--chunks": options.get("chunks"),
        "--store table": options.get("store") == "table",
        "--enhance": options.get("enhance"),
    }
    for flag, is_given in contradictions.items():
        if is_given:
            raise SettingsError(
                f"--adopt contradicts {flag}: only vectors of whole texts in a column of the table"
                " can be adopted",
                "Leave out --adopt, and embed the texts: `worker backfill`.",
            )
    if options.get("model") not in (None, model):
        raise SettingsError(
            f"--adopt {model} contradicts --model {options.get('model') or 'default'}",
            "Leave out --model: --adopt names the model.",
        )
    return replace(wanted, options=options | WatchOptions(model=model, enhance=""))


def _check_watched(plan: WatchPlan, model: str) -> None:
    """Raise SettingsError if the column is watched, and its own vectors would not stay."""
    before = plan.before
    if before and before.model not in (None, model):
        raise SettingsError(
            f"column {before.named} holds vectors of {before.model}, not of {model}",
            "Adopt those of its model, or use `worker reembed` to change that.",
        )
    if plan.preview.to_embed:
        raise SettingsError(
            f"this would also embed {plan.preview.to_embed} rows of {plan.request.table} again",
            "Change the column by `worker watch` without --adopt before.",
        )


def _key_of(plan: WatchPlan, model: str) -> ModelKey:
    """The model as the column will use it."""
    given = plan.request.options.get("document_prompt")
    present = plan.before.document_prompt if plan.before else None
    prompt = present if given is None else {"none": "", "": None}.get(given, given)
    return ModelKey(model, plan.preview.width, prompt, None)


def _audit(queue: PostgresQueue, adoption: Adoption, source: CallSource) -> None:
    names = ("model", "adopted", "pending", "left_alone", "locked")
    figures = {name: getattr(adoption, name) for name in names}
    figures |= dict(adoption.sample.figures) if adoption.sample else {}
    with suppress(DatabaseError):  # what was adopted stays
        queue.record_audit(
            "adopted",
            adoption.target.table_name,
            adoption.target.embedding_column,
            source=source,
            figures=figures,
        )
