"""The output of the commands: texts, tables, screens, progress and summaries."""
