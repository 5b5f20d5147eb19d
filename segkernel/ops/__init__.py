"""One file per operator: docstring, wrapper, fake kernel and, where it has one, its derivative."""
