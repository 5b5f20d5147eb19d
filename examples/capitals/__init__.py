"""The capitals task: DPO against ASR-DPO where the true credit of every token is known."""
