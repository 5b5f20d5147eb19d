"""Experiment on a real language model: answers under constraints whose violations have exact token spans."""
