"""Methods by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pointsman.errors import InvalidParameterError, InvalidRouterError
from pointsman.policies import METHODS, from_state, make


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A misspelt method is one clear error, from a name and from a state."""
    with pytest.raises(InvalidParameterError, match="best-single"):
        make("best")
    with pytest.raises(InvalidRouterError, match="best-single"):
        from_state("best", {}, {})


@pytest.mark.parametrize(("name", "options"), [("knn", {"penalties": (1,)}), ("always", {})])
def test_an_unknown_or_missing_option_is_refused(name: str, options: dict[str, object]) -> None:
    """An option the method does not have, or one it cannot do without, is named."""
    with pytest.raises(InvalidParameterError, match="options of"):
        make(name, **options)


def test_the_seed_reaches_those_that_draw() -> None:
    """`make` hands its seed to the methods with one and spares the others."""
    assert make("rm-interval", seed=7).seed == 7
    assert not hasattr(make("uniform", seed=7), "seed")


def test_naming_the_methods_imports_none_of_them() -> None:
    """Listing methods, as the command line's help does, loads neither their modules nor scipy or scikit-learn."""
    code = (
        "import sys, pointsman.policies as p; assert len(list(p.METHODS)) >= 10; "
        "print([m for m in sys.modules if m.split('.')[0] in ('scipy', 'sklearn', 'torch') or m.endswith('.regret')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
    assert "rm-softmax" in METHODS
