"""Folders of files become rows whose text can be searched."""
