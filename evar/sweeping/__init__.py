"""Sweeps: many models on many tasks, in several processes, each job at most once."""
