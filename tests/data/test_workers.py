"""Processes that work side by side: what they raise, what they need, and that they may be killed at any moment."""

import gzip
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from support import texts
from support.limits import LIMIT_S, killed_late

from capscale.data import prepare as prepare_module
from capscale.data.manifest import Manifest
from capscale.errors import UserError


def test_error_of_a_worker_reaches_the_user(book, tmp_path):
    (tmp_path / "broken.jsonl").write_bytes(texts.json_lines() + b"{\n")
    with pytest.raises(UserError, match=r"broken.jsonl .line at byte .* is not JSON"):
        texts.shards(tmp_path / "out", book, tmp_path / "broken.jsonl", workers=2)


def test_killed_worker_is_said(book, tmp_path):
    whole = texts.shards(tmp_path / "whole", book)
    real = prepare_module.share_out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "share_out", lambda *args: [*real(*args)[:3], (texts.Fatal(),), *real(*args)[4:]])
        with pytest.raises(UserError, match="a worker was killed, perhaps for want of memory; start again with fewer"):
            texts.shards(tmp_path / "out", book, workers=2)
    assert texts.shards(tmp_path / "out", book, workers=2) == whole


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path):
    """A file that can only be read from its beginning, of 100 and of 400 MB; what is in memory is a shard at most."""
    peaks = []
    for size in (100, 400):
        with gzip.open(tmp_path / "big.txt.gz", "wt", compresslevel=1) as file:
            for number in range(size * 10):
                file.write(f"{number} " + "word " * 20_000 + texts.SEPARATOR)
        done = subprocess.run(
            command(tmp_path, f"out{size}", 1, "big.txt.gz"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
        peaks.append(int(done.stdout.rsplit(":", 1)[1].split()[0].replace(",", "")))
        assert (
            Manifest.read(epath.Path(tmp_path / f"out{size}")).train[-1].file
            == f"train-00000-{size * 95 // 3200:03d}.npy"
        )
    assert peaks[1] < peaks[0] + 16
    assert peaks[1] < 400, "MiB"


def command(tmp_path, out, workers, name="big.txt"):
    """A process that prepares the book in parts of 8 KiB."""
    code = (
        "from capscale.data import inputs; inputs.PART = 8192\n"
        "from capscale.cli import main\n"
        "import sys\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "run.py").write_text(code)
    arguments = ["data", "prepare", name, "--out", out, "--tokenizer", "byte", "--workers", str(workers)]
    return [sys.executable, "run.py", *arguments, "--separator", texts.SEPARATOR, "--name", "big"]


def living(out):
    """Processes that have `out` on their command line, and worker processes whose parent is gone."""
    found = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout
    return [line for line in found.splitlines() if f"--out {out} " in line or (" 1 " in line and "spawn_main" in line)]


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """SIGKILL of the parent, again and again: its workers end with it, and the shards are the same in the end."""
    texts.write_text(tmp_path / "big.txt", tuple(f"{n} {text}" for n in range(150) for text in texts.documents()))
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run(
        command(tmp_path, "whole", 2),
        cwd=tmp_path,
        capture_output=True,
        env=environment,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    kills, seen = 0, set()
    for attempt in range(60):
        process = subprocess.Popen(command(tmp_path, "out", 2), cwd=tmp_path, stdout=-3, stderr=-3, env=environment)
        parts = tmp_path / "out" / ".parts"
        wanted = len(list(parts.glob("*.json"))) + 1 + 40 * (attempt + 1)
        with killed_late(process):
            while process.poll() is None and len(list(parts.glob("*.json"))) < wanted:
                time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        kills += 1
        seen.add(len(list(parts.glob("*.json"))))
    assert process.returncode == 0
    assert kills >= 3
    assert len(seen) == kills, "every attempt went on from what was done"
    assert texts.contents(tmp_path / "out") == texts.contents(tmp_path / "whole")
    deadline = time.monotonic() + 20
    while living("out") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living("out")
