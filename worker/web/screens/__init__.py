"""The screens of the dashboard: what each shows, and what it lets people do."""
