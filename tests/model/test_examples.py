"""The examples in the docstrings of what a checkpoint carries."""

import doctest

import pytest

from rmn_hub.model import configuration_rmn, image_processing_rmn, modeling_rmn


@pytest.mark.parametrize("module", [configuration_rmn, image_processing_rmn, modeling_rmn])
def test_the_documented_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted >= 2
    assert results.failed == 0
