"""Figures, theory against experiment: each a script with `compute` and `plot` apart; `python -m paper_figures --list`."""
