"""Experiment on a real language model: pairs of a right and a wrong solution to a GSM8K problem."""
