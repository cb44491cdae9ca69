"""The loss of another process is distinguished from a defect of this program."""

import jax
import pytest

from cpnet_jax.errors import UserError
from cpnet_jax.runtime import processes

# As in jaxlib, where each collective writes its own name.
COLLECTIVES = ["all-reduce", "AllGather", "all-to-all", "collective permute", "ReduceScatter"]


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_every_collective_that_another_process_left_is_recognised(monkeypatch, collective):
    error = RuntimeError(f"UNKNOWN: Gloo {collective} failed: [pair.cc:547] Connection closed by peer")
    assert not processes.is_lost_peer(error), "this process is the only one"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert processes.is_lost_peer(error) and not processes.is_lost_peer(RuntimeError("RESOURCE_EXHAUSTED: failed"))


def test_any_error_of_one_process_ends_the_others_and_keeps_its_traceback_where_it_was_raised(monkeypatch):
    def fail():
        raise KeyError("a bug")

    sent = []
    monkeypatch.setattr(processes, "gather", lambda error: [*sent, error])
    with pytest.raises(KeyError) as caught:
        processes.on_all(fail)
    assert caught.traceback[-1].name == "fail"
    sent.append(processes._for_others(caught.value))
    with pytest.raises(UserError, match=r"process 0 of 1 failed .*a bug"):
        processes.on_all(lambda: None)
