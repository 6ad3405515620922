"""A run that several processes train together: the first one holds its lease, and all of them lose it alike."""

import json

import pytest
from etils import epath

from capscale.train import distributed, lease
from capscale.train.distributed import FailedElsewhere, is_agreed
from capscale.train.lease import Held, LeaseLost, current_lease


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((False, True, False), LeaseLost, "the first process does not hold the lease any more"),
        ((True, False, True), FailedElsewhere, "another process could not do its part"),
    ],
    ids=["lost", "failed"],
)
def test_processes_that_train_together_lose_their_lease_together(answer, error, message, directory, monkeypatch):
    """Only the first one holds it. The others would go on with a step that waits for it."""
    told, answers = [], [(False, False, False), (False, False, False), answer]
    monkeypatch.setattr(lease, "is_first", lambda: False)
    monkeypatch.setattr(distributed, "any_process", lambda *flags: told.append(flags) or answers.pop(0))
    with lease.Leases([directory]) as leases:
        leases.check()
        with pytest.raises(error, match=message) as raised:
            leases.check()
    assert is_agreed(raised.value)
    assert told == [(False, False, False)] * 3
    assert not list(directory.iterdir())


@pytest.mark.parametrize(("answer", "error"), [((False, True, False), Held), ((True, False, True), FailedElsewhere)])
def test_processes_that_train_together_do_not_begin_without_the_first(answer, error, directory, monkeypatch):
    """A run that another worker holds is tried again later, one that cannot be leased is not."""
    monkeypatch.setattr(lease, "is_first", lambda: False)
    monkeypatch.setattr(distributed, "any_process", lambda *flags: answer)
    with pytest.raises(error):
        lease.Leases([directory]).__enter__()


def test_first_process_tells_the_others_that_it_lost_its_lease(directory, monkeypatch):
    told = []
    monkeypatch.setattr(distributed, "any_process", lambda *flags: told.append(flags) or flags)
    with lease.Leases([directory]) as leases:
        leases.check()
        content = current_lease(directory)
        assert content is not None
        (directory / "lease-2.json").write_text(json.dumps(content | {"token": "theirs"}))
        leases._leases[0]._renewed -= 1000
        with pytest.raises(LeaseLost, match="was taken over by another worker"):
            leases.check()
    assert told == [(False, False, False), (False, False, False), (False, True, False)]


def test_first_process_tells_the_others_that_its_store_fails(directory, monkeypatch):
    told = []
    monkeypatch.setattr(distributed, "any_process", lambda *flags: told.append(flags) or flags)

    def write(*args, **options):
        raise RuntimeError("503")

    with lease.Leases([directory]) as leases:
        leases._leases[0]._renewed -= 1000
        monkeypatch.setattr(lease, "write_json", write)
        with pytest.raises(RuntimeError, match="503"):
            leases.check()
    assert told == [(False, False, False), (True, False, True)]
