"""Shared parts of the experiments on a pretrained language model: frozen trunk, reward models, methods on pairs."""
