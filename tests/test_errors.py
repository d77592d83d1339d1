"""The family of exceptions: what a caller may catch, and how the command line ends."""

import pickle

import pytest
import typer

from rmn_hub import CheckpointError, InputError, MissingPackageError, RMNError, TrainingError
from rmn_hub.cli.shared import failing_on_bad_input
from rmn_hub.packages import require


def test_a_missing_package_is_bad_input_and_an_import_error():
    with pytest.raises(MissingPackageError, match=r"'rmn-hub\[video\]'") as caught:
        require("rmn_no_such_package", "films", extra="video")
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, ImportError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(RMNError, 2), (InputError, 2), (CheckpointError, 2), (MissingPackageError, 2), (TrainingError, 1)],
)
def test_every_error_ends_a_command_with_its_sentence(kind, code, capsys):
    with pytest.raises(typer.Exit) as end, failing_on_bad_input():
        raise kind("it went wrong")
    assert end.value.exit_code == code
    assert capsys.readouterr().err == "rmn-hub: it went wrong\n"
