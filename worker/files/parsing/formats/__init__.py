"""One module for each kind of file. Its function `read` makes Markdown of a file."""
