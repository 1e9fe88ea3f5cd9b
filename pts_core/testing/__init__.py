"""What plugin authors test with: a model whose answers are known exactly, and checks that a
dataset, an oracle, a backend, a search or an exporter keeps what its protocol promises.

    from pts_core.testing import check_oracle

    def test_my_oracle():
        check_oracle(my_oracle(), PROBLEM, right=["The answer is 4."], wrong=["It is 5.", ""])
"""

from pts_core.testing.conformance import (
    check_backend,
    check_dataset,
    check_exporter,
    check_oracle,
    check_search,
    sample_records,
)
from pts_core.testing.models import END, FiniteStateModel

__all__ = [
    "END",
    "FiniteStateModel",
    "check_backend",
    "check_dataset",
    "check_exporter",
    "check_oracle",
    "check_search",
    "sample_records",
]
