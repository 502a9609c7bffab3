"""Turns texts into vectors. One file per provider; `connection` and `answers` are for HTTP."""
