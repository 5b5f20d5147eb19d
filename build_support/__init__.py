"""What building and checking segkernel needs, and running it does not."""
