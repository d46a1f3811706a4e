"""One network a file; a configuration names the file."""
