"""What becomes of a program that fails, alone or as one of several hosts."""

import os
import time

import jax
import pytest

from rog_jax.training import runtime


class Ended(BaseException):
    pass


@pytest.fixture
def ended(monkeypatch):
    """Statuses that the process would have ended with."""
    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return statuses


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt("broken")])
def test_one_of_several_hosts_says_what_it_was_and_ends(ended, error, monkeypatch, caplog):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Ended), runtime.ends_all_hosts():
        raise error
    assert ended == [1]
    assert "process 0 ends, and by it the others" in caplog.text
    assert "broken" in caplog.text


def test_one_alone_and_an_exit_asked_for_end_as_ever(ended, monkeypatch):
    with pytest.raises(ValueError, match="broken"), runtime.ends_all_hosts():
        raise ValueError("broken")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(SystemExit), runtime.ends_all_hosts():
        raise SystemExit(0)
    assert ended == []
