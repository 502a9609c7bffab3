"""The HTTP API for apps: docs/api.md."""
