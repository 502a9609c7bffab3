"""Reads the local model in the process that commands are forked from: see tests/command_line.py.

Each command with that model would read it again, which takes ten times as long as the rest of its
start.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from worker.embedders import local
from worker.errors import SettingsError

local.read_rows = cache(local.read_rows)
local.read_tokenizer = cache(local.read_tokenizer)

with suppress(SettingsError):  # it is not installed
    local.LocalEmbedder()
