"""The dashboard for operators, and the HTTP API for apps."""
