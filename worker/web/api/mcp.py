"""Tools for agents, by the Model Context Protocol: `search` and `status`, by its official SDK.

Each request stands for itself, with its own token: no session is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from anyio import to_thread
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from worker import __version__
from worker.errors import WorkerError
from worker.queue import KeyScope
from worker.web.api.bodies import SearchRequest
from worker.web.api.endpoints import ApiServices, Call, parsed
from worker.web.api.search import search
from worker.web.api.status import status
from worker.web.problems import problem_of

Context = ServerRequestContext[Any, Request]


class AgentTool(NamedTuple):
    """A tool, which calls the handler of an endpoint. Its name is that of its scope."""

    name: KeyScope
    description: str
    body: type[BaseModel] | None
    handle: Callable[[Call], BaseModel]

    @property
    def described(self) -> Tool:
        """The tool as agents get to know it."""
        schema = self.body.model_json_schema() if self.body else {"type": "object"}
        reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return Tool(
            name=self.name,
            description=self.description,
            input_schema=schema,
            annotations=reads,
        )


TOOLS = (
    AgentTool(
        "search",
        "Search the texts of a table by meaning and by words. Returns the best rows or passages,"
        " with their texts.",
        SearchRequest,
        search,
    ),
    AgentTool(
        "status",
        "Show which columns can be searched, how far their embedding is, the workers, and what"
        " failed.",
        None,
        status,
    ),
)


class McpServer:
    """Answers the requests of agents. It is called in one event loop."""

    def __init__(self, shared: ApiServices) -> None:
        self._shared = shared
        server: Server[Any] = Server(
            "embedding-worker",
            version=__version__,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
        )
        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
        self._starting = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises HTTPException unless it has a token with one of the scopes."""
        request = Request(scope)
        permit = await run_in_threadpool(self._shared.permits.identify, request)
        if not any(tool.name in permit.scopes for tool in TOOLS):
            raise HTTPException(403, "This token has neither the scope `search` nor `status`.")
        await self._start()
        await self._manager.handle_request(scope, receive, send)

    async def _start(self) -> None:
        """Let the manager run until the event loop ends."""
        async with self._starting:
            if self._running is None:
                started = asyncio.Event()

                async def run() -> None:
                    async with self._manager.run():
                        started.set()
                        await asyncio.Event().wait()

                self._running = asyncio.create_task(run())
                await started.wait()

    async def _list_tools(
        self, context: Context, _: PaginatedRequestParams | None
    ) -> ListToolsResult:
        assert context.request is not None
        permit = await run_in_threadpool(self._shared.permits.identify, context.request)
        tools = [tool.described for tool in TOOLS if tool.name in permit.scopes]
        return ListToolsResult(tools=tools)

    async def _call_tool(self, context: Context, asked: CallToolRequestParams) -> CallToolResult:
        assert context.request is not None
        tool = next((tool for tool in TOOLS if tool.name == asked.name), None)
        if tool is None:
            return _failed(f"There is no tool {asked.name[:100]}.")
        try:
            arguments = asked.arguments or {}
            answer = await to_thread.run_sync(
                self._answer, tool, context.request, arguments, limiter=self._shared.threads
            )
        except (HTTPException, WorkerError) as error:
            _, cause, hint = problem_of(error)
            return _failed(f"{cause} {hint or ''}".strip())
        return CallToolResult(
            content=[TextContent(text=answer)], structured_content=json.loads(answer)
        )

    def _answer(self, tool: AgentTool, request: Request, arguments: dict[str, Any]) -> str:
        permit = self._shared.permits.require(request, tool.name)
        body = parsed(tool.body, json.dumps(arguments).encode()) if tool.body else None
        return tool.handle(Call(self._shared, permit, body)).model_dump_json()


def _failed(cause: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=cause)], is_error=True)
