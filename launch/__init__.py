"""Sweeps on this machine, on Slurm and on Kubernetes: `python -m launch.sweep`.

What a trial is, and how it is trained and scored, the package knows (`eegsr train --sweep`); what
is here divides trials into tasks, has a machine or a cluster run them, and says how they stand.
"""
