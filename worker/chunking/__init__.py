"""Long texts in chunks, each short enough for a model and found by itself."""
