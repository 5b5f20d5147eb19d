"""Build and release tools; not part of the installed package."""
