"""From recordings of any kind to a set on disk: audio files, checks, conversion, pairs, classes, synthesis."""
