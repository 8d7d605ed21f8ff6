"""Evaluates a detector: `python eval.py --config configs/lvis_r50.py --workdir runs/r50`; more by --help."""

from rog_jax.console import evaluate

if __name__ == "__main__":
    evaluate()
