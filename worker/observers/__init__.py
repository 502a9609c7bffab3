"""What a worker that stays tells: its log, metrics, systemd, and the people it works for."""
