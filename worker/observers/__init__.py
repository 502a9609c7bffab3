"""Observers of a run: its log, metrics, systemd, and notifications."""
