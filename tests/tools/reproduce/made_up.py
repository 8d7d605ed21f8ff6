"""A run, and a record of one, for tests that train nothing."""

from rog_jax.tools.reproduce.runs import gap_variation

RUN = gap_variation("weight_3", weight=3.0)


def content(ap: float = 0.1, seconds: float = 60.0, **more) -> dict:
    """A record as short as pages allow."""
    figures = {"AP": ap, "APr": ap / 2, "APc": ap, "APf": 2 * ap}
    spent = {"training": {"seconds": seconds, "cpu_seconds": 40.0}, "evaluation": {"seconds": 0.0, "cpu_seconds": 1.0}}
    return {
        "spent": spent,
        "steps": 4,
        "commit": "abc",
        "backbone": "aa",
        "figures": {"bbox": figures, "segm": figures},
        "sweep": [],
        "categories": {
            "category_id": [1],
            "name": ["a"],
            "group": ["r"],
            "train_images": [2],
            "bbox_AP": [ap],
            "segm_AP": [ap],
        },
        "classifier": {},
        "replicates": {},
    } | more
