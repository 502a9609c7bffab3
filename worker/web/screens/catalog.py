"""All screens, in the order of the menu."""

from __future__ import annotations

from worker.web.screens.base import Screen
from worker.web.screens.overview import OVERVIEW

SCREENS: tuple[Screen, ...] = (OVERVIEW,)
