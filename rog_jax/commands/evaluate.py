"""Evaluates a detector: `python eval.py --config configs/quickstart.py --workdir runs/quickstart`.

Writes `results_bbox.json`, `results_segm.json` (LVIS format), `metrics.json`, `per_class.csv` and `pictures/` into
`WORKDIR/eval`; docs/evaluation.md describes them. Settings of `config.test` say how; `--config.test.figures=...`.

The best of the checkpoints evaluated, by `config.test.best_figure`, is kept in `WORKDIR/best`;
`--checkpoint best` evaluates it.

With `--results FILE.json` nothing is run: that file is evaluated against the config's annotations. The flag may be
repeated or hold several files with commas between, one of boxes and one of masks.

With `--sweep` one pass of the detector (or one results file) is evaluated for each number of detections an image in
`--sweep_caps` and each of NorCal's gammas in `--sweep_gammas`; `--sweep_against RUN` shows improvements over another
run's sweep.
"""

from absl import app, flags
from ml_collections import config_flags

from rog_jax.training import runtime

CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe, such as configs/lvis_r50.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; results go to its sub-folder `eval`.", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest if not given.")
CHECKPOINT = flags.DEFINE_enum("checkpoint", None, ["newest", "best"], "Checkpoint to evaluate, instead of --step.")
RESULTS = flags.DEFINE_multi_string("results", [], "Evaluate these results files instead of running the detector.")
EVALUATOR = flags.DEFINE_enum("evaluator", None, ["hotcoco", "official"], "Short for --config.test.evaluator.")
SWEEP = flags.DEFINE_bool("sweep", False, "Evaluate for several numbers of detections an image and several gammas.")
CAPS = flags.DEFINE_list("sweep_caps", ["50", "100", "300"], "Numbers of detections an image.")
GAMMAS = flags.DEFINE_list("sweep_gammas", ["0"], "NorCal's gammas; 0 is the loss's own score.")
AGAINST = flags.DEFINE_string("sweep_against", None, "Run folder, or sweep.json, that improvements are counted from.")
HOSTS = runtime.define_host_flags()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {argv[1:]}")
    check_flags()
    runtime.start(HOSTS)
    with runtime.ends_all_hosts():
        run()


def check_flags() -> None:
    """Refuses flags that would have no effect beside the others."""
    if STEP.present and CHECKPOINT.present:
        raise app.UsageError(f"--step={STEP.value} and --checkpoint={CHECKPOINT.value}: give one of them")
    for flag in (STEP, CHECKPOINT):
        if RESULTS.present and flag.present:
            raise app.UsageError(f"--{flag.name}={flag.value} chooses a checkpoint, and --results evaluates none")
    for flag in (CAPS, GAMMAS, AGAINST):
        if flag.present and not SWEEP.value:
            raise app.UsageError(f"--{flag.name} has no meaning without --sweep")
    if RESULTS.present and GAMMAS.present:
        raise app.UsageError("--sweep_gammas needs the detector's scores: leave it or --results out")


def run() -> None:
    """Evaluates as the flags say."""
    from rog_jax.evaluation.run import evaluate_results, evaluate_run
    from rog_jax.evaluation.sweep import sweep_results, sweep_run
    from rog_jax.training.best import BEST

    config, workdir = CONFIG.value, WORKDIR.value
    step = BEST if CHECKPOINT.value == "best" else STEP.value
    if EVALUATOR.value:
        config.test.evaluator = EVALUATOR.value
    results = [path for given in RESULTS.value for path in given.split(",") if path]
    if SWEEP.value:
        caps, gammas = numbers("sweep_caps", CAPS.value, int), numbers("sweep_gammas", GAMMAS.value, float)
        if results:
            sweep_results(config, results, workdir, caps, AGAINST.value)
        else:
            sweep_run(config, workdir, caps, gammas, step, AGAINST.value)
    elif results:
        evaluate_results(config, results, workdir)
    else:
        evaluate_run(config, workdir, step)


def numbers(flag: str, texts: list[str], kind: type) -> list:
    """The numbers of a flag; says which flag is wrong."""
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        raise app.UsageError(f"--{flag}={','.join(texts)}: {error}") from error


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
