"""Independent training runs: worker processes, and means with intervals over the runs."""
