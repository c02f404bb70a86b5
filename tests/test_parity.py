"""docs/parity.md names every test that measures an error against a reference, and no other."""

from scripts import parity


def test_the_ledger_is_of_these_tests():
    kept = parity.kept_rows()
    tests = {(test.file, test.name) for test in parity.measuring_tests()}
    missing, gone = sorted(tests - kept.keys()), sorted(kept.keys() - tests)
    assert not missing and not gone, f"run python scripts/parity.py: lacks {missing}, has {gone}"
    never = [name for (_, name), row in kept.items() if not row.cases]
    assert not never, f"{never} never ran where the ledger was made"


def test_what_a_row_says_is_read_back():
    key = next(iter(parity.kept_rows()))
    rows = {key: parity.Row("w", 3, "1.0e-06")}
    assert "| 3 | 1.0e-06 |" in parity.page(rows, "a machine")
