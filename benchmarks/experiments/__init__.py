"""Controlled experiments: methods against their baselines where the true credit of every token is known."""
