"""Frozen feature spaces in which enhanced speech is compared with clean speech, one file each."""
