"""Networks, one per file; `network.name` of a configuration is the name of the file. See base.py to add one."""
