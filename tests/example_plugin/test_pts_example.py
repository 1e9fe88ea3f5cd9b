"""The conformance kit of pts: this is all that a plugin's own tests need to begin with."""

from pathlib import Path

from pts_example import CoinBackend, coins, parity, write_csv

from pts_core import Problem
from pts_core.testing import check_backend, check_dataset, check_exporter, check_oracle


def test_parity() -> None:
    problem = Problem("0", "Toss an odd number of heads.", "odd", "coins")
    check_oracle(parity(), problem, right=["H", "T H T"], wrong=["H H", "T"])


def test_coins() -> None:
    check_dataset(coins(size=4))


def test_csv(tmp_path: Path) -> None:
    check_exporter(write_csv(), tmp_path)


def test_coin_backend() -> None:
    check_backend(CoinBackend("coin", bias=0.3))
