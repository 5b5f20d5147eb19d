"""The capitals task: a model of 0.1 M parameters, and true credit per part of an answer."""
