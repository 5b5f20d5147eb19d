"""The controlled experiment: what each method buys where the truth per token is known. `make experiment`."""
