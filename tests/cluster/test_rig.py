"""The Slurm of these tests: alone in its folder, and gone without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import rig


def test_what_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(rig, "PATH", "/nowhere")
    assert str(rig.available()).startswith("no setpriv, munged, mariadbd")
    assert "apt-get install slurm-wlm slurmdbd munge mariadb-server" in str(rig.available())


@pytest.mark.cluster
def test_two_side_by_side_of_which_one_ends(cluster):
    with rig.started() as other:
        assert [other.node_state(name) for name in rig.NODES] == ["idle", "idle"]
        assert sorted(other.ask("srun", "--nodes=2", "hostname").split()) == [*rig.NODES]
        other.ask("sbatch", "--output=/dev/null", "--wrap", "sleep 600")
        assert not cluster.ask("squeue", "--noheader")
        begun = [daemon.pid for daemon in other.daemons.values()]
        assert len(begun) == 6
    assert not other.folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in begun)
    named = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not any(str(other.folder).encode() in line for line in named)
    assert [cluster.node_state(name) for name in rig.NODES] == ["idle", "idle"]
