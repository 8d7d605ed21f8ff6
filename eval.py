"""Evaluates a detector as LVIS does: `python eval.py --config configs/quickstart.py --workdir runs/quickstart`.

Writes `results_bbox.json`, `results_segm.json` (LVIS format), `metrics.json`, `per_class.csv` and `pictures/` into
`WORKDIR/eval`. With `--results FILE.json` nothing is run: that file is evaluated against the config's annotations.
"""

from absl import app, flags
from ml_collections import config_flags

from rog_jax.training import runtime

CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe, such as configs/lvis_r50.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; results go to its sub-folder `eval`.", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest if not given.")
RESULTS = flags.DEFINE_string("results", None, "Evaluate this results file instead of running the detector.")
MULTIHOST = flags.DEFINE_bool("multihost", False, "Join the other hosts that JAX finds (Slurm, GKE, TPU pod).")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {argv[1:]}")
    runtime.start(multihost=MULTIHOST.value)
    from rog_jax.evaluation.run import evaluate_results, evaluate_run

    if RESULTS.value:
        evaluate_results(CONFIG.value, RESULTS.value, WORKDIR.value)
    else:
        evaluate_run(CONFIG.value, WORKDIR.value, STEP.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
