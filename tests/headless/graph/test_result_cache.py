"""Which results outlive a run."""

from __future__ import annotations

from inkstone.headless.graph.result_cache import ResultCache


def test_models_of_earlier_runs_stay_up_to_a_number():
    cache: ResultCache[str] = ResultCache(models=2)
    for name in "abcd":
        cache.drop_unused([name])
        cache.store_model(name, f"model {name}", name)
        cache.store(f"{name}'s picture", "picture", keep=False)
    cache.drop_unused(["d"])
    assert [key for key in "abcd" if key in cache] == ["b", "c", "d"]
    assert cache["b"] == "model b" and "d's picture" not in cache
    cache.drop_unused(["b"])
    cache.drop_unused([])
    assert [key for key in "abcd" if key in cache] == ["b", "d"], "c was used longest ago"


def test_without_a_number_none_stays():
    cache: ResultCache[str] = ResultCache()
    cache.store_model("a", "model", "a")
    cache.drop_unused(["a"])
    assert "a" in cache
    cache.drop_unused(["b"])
    assert "a" not in cache


def test_a_model_takes_the_place_of_one_with_its_name():
    cache: ResultCache[str] = ResultCache(models=8)
    cache.store_model("old", "model", "file")
    cache.drop_unused([])
    cache.store_model("new", "model", "file")
    assert "old" not in cache and "new" in cache


def test_a_part_of_a_model_is_not_kept():
    cache: ResultCache[str] = ResultCache(models=8)
    cache.store_model("a", "model", "a")
    cache.replace("a", "what is still read of it")
    cache.drop_unused([])
    assert "a" not in cache


def test_a_kept_result_is_dropped_by_its_key():
    cache: ResultCache[str] = ResultCache()
    cache.store("a", "latents", keep=True)
    cache.drop_unused([])
    assert "a" in cache
    cache.drop(["a", None])
    assert "a" not in cache
