"""Synthetic speech, recording channels, noises and RIRs, for a corpus that can be made anywhere in a minute."""
