"""The main job: segment-masked DPO against plain DPO on a task with known credit. `python -m examples.capitals`."""
