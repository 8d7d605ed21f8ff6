from rog_jax.tools import benchmark_ranking


def test_both_methods_of_both_losses_are_measured(monkeypatch):
    monkeypatch.setattr(benchmark_ranking, "SHAPES", {"few": (24, 5)})
    monkeypatch.setattr(benchmark_ranking, "SCENES", {"any": (0.0, 1.0)})
    scene = benchmark_ranking.benchmark_ranking(positives=6, rounds=1, dense=True)["few"]["any"]
    for loss in ("ap", "rank_sort"):
        assert scene[f"{loss}_dense_ms"] > 0
        quotient = scene[f"{loss}_interval_ms"] / scene["sigmoid_ce_ms"]
        assert abs(scene[f"{loss}_over_sigmoid_ce"] - quotient) < 0.01
        assert scene[f"{loss}_interval_mb"] >= 0
