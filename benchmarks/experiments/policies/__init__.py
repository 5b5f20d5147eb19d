"""Training and measuring of policies, for any task: log-probabilities, credit per token, rollouts, times."""
