"""Trains a detector: `python train.py --config configs/lvis_r50.py --workdir runs/r50`; more by --help."""

from rog_jax.console import train

if __name__ == "__main__":
    train()
