"""The paper's tables and figures in miniature, rerun by one command: `python -m rog_jax.tools.reproduce --help`."""
