from rog_jax.tools.benchmark_evaluation import benchmark_evaluation


def test_benchmark_evaluates_made_up_data():
    measured = benchmark_evaluation(images=4, detections=15, categories=30, repeats=2)
    assert measured["evaluation_spread"] > 0
    assert measured["images"] * measured["detections_per_image"] == 60
    assert measured["evaluation_seconds"] > 0
    assert measured["mask_milliseconds"] > 0
    assert 0.05 < measured["AP"] < 1.0
