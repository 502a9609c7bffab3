"""Descriptions of the services of AWS, a megabyte of JSON that each client of boto3 reads anew."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def read_once() -> None:
    """Have all clients of this process share what the first one read: most of their start."""
    from botocore.loaders import JSONFileLoader  # which takes a while

    read = JSONFileLoader.load_file

    @cache
    def load(path: str | Path) -> Any:
        return read(JSONFileLoader(), path)

    JSONFileLoader.load_file = lambda _, path: load(path)
