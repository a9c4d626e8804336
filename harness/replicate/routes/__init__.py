"""HTTP routes: each module turns requests into calls and rows into responses, and decides nothing else."""
