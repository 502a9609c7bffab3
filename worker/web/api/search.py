"""Searches of watched columns, for an app or in the name of its user."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from starlette.exceptions import HTTPException

from worker.errors import SettingsError
from worker.operations.search import mode_of, only_target, search_target
from worker.queue import AdminQueue, Target
from worker.web.api.bodies import Found, SearchAnswer, SearchRequest
from worker.web.api.endpoints import Call


def search(call: Call) -> SearchAnswer:
    """Search a column. Who has a token of Supabase finds what row-level security lets them see;
    a key finds all rows."""
    body: SearchRequest = call.body
    services, permit = call.shared.services, call.permit
    assert permit
    with services.queues.lent() as queue:
        target = _target(queue, body)
    mode = mode_of(target, body.mode)
    # without a queue in hand, which others need while a model is slow
    vector = None if mode == "text" else services.queries.embed([body.query], target)
    with services.queues.lent() as queue:
        matches = search_target(
            queue,
            target,
            body.query,
            vector,
            limit=body.limit,
            mode=mode,
            filter=body.filter,
            per_document=body.per_document,
            search_as=partial(services.callers.search, queue, permit.token)
            if permit.token
            else None,
        )
    return SearchAnswer(matches=[Found(**asdict(match)) for match in matches])


def _target(queue: AdminQueue, body: SearchRequest) -> Target:
    try:
        return only_target(queue, body.table, body.column)
    except SettingsError as problem:
        raise HTTPException(404, f"{problem.cause}. Give `table` and `column`.") from None
