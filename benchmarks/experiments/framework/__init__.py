"""Framework of an experiment: jobs in dependency order, results that survive a kill, estimates, tables and plots."""
