"""One file per command of `python -m cslib`: a docstring that teaches it, its `Options`, and `main(options)`."""
