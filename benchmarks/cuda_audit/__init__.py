"""Audit of the compiled CUDA kernels: resources and instructions, counted without a GPU."""
