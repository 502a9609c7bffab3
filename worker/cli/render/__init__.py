"""What the commands show: texts, tables, screens, progress and summaries."""
