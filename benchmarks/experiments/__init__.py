"""Controlled experiment: every method against its baseline on a task with known credit per token. `make experiment`."""
