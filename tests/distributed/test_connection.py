"""The connection to Ray: what becomes of a cluster that refuses it."""

import os

import pytest

from rmn_hub import InputError
from rmn_hub.distributed.session import connected

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rmn-hub[cluster]'")


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_refuses_is_an_input_error(monkeypatch, mode):
    def refuse(address, **_):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # as Ray does
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    before = dict(os.environ)
    with pytest.raises(InputError, match="address='host:1'") as refused, connected("host:1"):
        pass
    assert ("RAY_AUTH_MODE" in str(refused.value)) == (mode is None)
    assert dict(os.environ) == before
