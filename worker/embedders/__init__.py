"""Text in, vectors out. One file a provider; those over HTTP share `connection` and `answers`."""
