"""The commands, one module for a group of them. Each is imported when it is chosen."""
