"""The commands, one module for each group. A module is imported when one of its commands runs."""
