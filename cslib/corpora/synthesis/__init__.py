"""Synthetic speech, recording channels, noises and rooms: a corpus that can be made anywhere in a minute."""
