"""pyproject.toml makes a deprecated call in the package an error in every test; what others do to each other is not."""

import warnings

import pytest

DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def warn(category, module):
    """As a library warns whoever called it: `warnings.warn(..., stacklevel=2)`."""
    warnings.warn_explicit("`old` is deprecated", category, "somewhere.py", 1, module=module)


@pytest.mark.parametrize("category", DEPRECATIONS)
@pytest.mark.parametrize("module", ["spinal_callback", "spinal_callback.probe.forward"])
def test_a_deprecated_call_of_ours_is_an_error(category, module):
    with pytest.raises(category, match="`old` is deprecated"):
        warn(category, module)


@pytest.mark.filterwarnings("ignore:`old` is deprecated:FutureWarning:transformers")
@pytest.mark.parametrize("category", DEPRECATIONS)
def test_one_of_another_package_is_none(category):
    warn(category, "transformers.trainer")
