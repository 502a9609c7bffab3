"""The web application: what is served where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from worker.web.api.endpoints import ApiServices
from worker.web.api.routes import api_routes
from worker.web.dashboard import Dashboard
from worker.web.guard import Guard
from worker.web.pages import STATIC
from worker.web.problems import exception_handlers
from worker.web.screens.catalog import SCREENS
from worker.web.services import Services

MOST_CACHED = "public, max-age=31536000, immutable"  # the address changes with the content


class CachedFiles(StaticFiles):
    """Files whose addresses change with their content."""

    def file_response(self, *args: object, **options: object) -> Response:
        response = super().file_response(*args, **options)  # type: ignore[arg-type]
        response.headers["cache-control"] = MOST_CACHED
        return response


@dataclass(frozen=True, slots=True)
class WebApp:
    """The application. Call `close` in the thread that runs it, before it ends: it ends all live
    updates and tasks."""

    asgi: ASGIApp
    close: Callable[[], None]


def create_app(services: Services) -> WebApp:
    """Return the application."""
    dashboard = Dashboard(services, SCREENS)

    def close() -> None:
        dashboard.live.close()
        services.tasks.close()

    app = Starlette(
        routes=[
            Mount("/static", CachedFiles(directory=STATIC)),
            *api_routes(ApiServices.of(services)),
            *dashboard.routes(),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=1000)],
        exception_handlers=exception_handlers(dashboard.pages.plain, services.on_defect),
    )
    app.router.redirect_slashes = False  # a redirect would repeat the host of the request
    guard = Guard(app, services.prefix, services.hosts, services.settings.worker_web_url)
    return WebApp(guard, close)
