"""Sources of rewards: reward models, DPO policies, checked calculations; and the token rewards derived from scores."""
