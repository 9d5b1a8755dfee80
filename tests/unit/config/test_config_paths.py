"""Run and state directories: where they are, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarm.config import PathError, Settings, choose_run_dir, choose_state_dir, find_run_dirs, run_dir_candidates
from swarm.config.paths import first_usable

ME = os.geteuid()


def _settings(**swarm: object) -> Settings:
    return Settings.model_validate({"swarm": {"name": "shop", **swarm}})


def test_candidates_come_in_the_agreed_order() -> None:
    """systemd may give several directories; a variable that is not an absolute path counts as unset."""
    environ = {"RUNTIME_DIRECTORY": "/run/swarm-a:/run/b", "XDG_RUNTIME_DIR": "/run/user/7"}
    rest = [Path("/run/swarm/shop"), Path("/tmp/swarm-7/shop")]

    assert run_dir_candidates(_settings(), environ, 7) == [
        Path("/run/swarm-a"),
        Path("/run/swarm/shop"),
        Path("/run/user/7/swarm/shop"),
        Path("/tmp/swarm-7/shop"),
    ]
    assert run_dir_candidates(_settings(), {"XDG_RUNTIME_DIR": "x", "RUNTIME_DIRECTORY": ""}, 7) == rest
    assert run_dir_candidates(_settings(run_dir="/x"), environ, 7) == [Path("/x")]


def test_a_run_dir_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """The control socket in it commands the daemon. Making it twice is fine."""
    wanted = tmp_path / "a" / "b"

    assert choose_run_dir(_settings(run_dir=wanted)) == wanted
    assert wanted.stat().st_mode & 0o777 == 0o700
    assert choose_run_dir(_settings(run_dir=wanted)) == wanted


def test_the_first_candidate_that_can_be_made_is_taken(tmp_path: Path) -> None:
    """One that cannot be is passed over, and the ones after it are left alone."""
    (tmp_path / "file").touch()
    candidates = [tmp_path / "file", tmp_path / "file" / "below", tmp_path / "good", tmp_path / "other"]

    assert first_usable(candidates, ME) == tmp_path / "good"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("where", ["file", "file/below", "proc"])
def test_a_run_dir_that_was_set_and_cannot_be_made_says_why_and_what_to_set(tmp_path: Path, where: str) -> None:
    """No other place is tried behind the user's back."""
    (tmp_path / "file").touch()
    path = Path("/proc/no-such-swarm") if where == "proc" else tmp_path / where

    with pytest.raises(PathError, match=r"swarm\.run_dir: no run directory can be used .*SWARM_RUN_DIR"):
        choose_run_dir(_settings(run_dir=path))


def test_a_path_too_long_for_the_socket_is_refused_with_its_length(tmp_path: Path) -> None:
    """107 bytes are all that a Unix socket's path may have; a character may be several bytes."""
    fits = 107 - len(os.fsencode(tmp_path)) - len("//control.sock")
    long = tmp_path / ("ä" * (fits // 2 + 1))

    with pytest.raises(PathError, match=r"its path has 10[89] bytes, a socket's may have 107"):
        choose_run_dir(_settings(run_dir=long))

    assert not long.exists()
    assert choose_run_dir(_settings(run_dir=tmp_path / ("x" * fits)))


def test_below_a_directory_that_others_may_write_in_a_symlink_or_anothers_directory_is_refused(tmp_path: Path) -> None:
    """Whoever owns the directory of the control socket owns the daemon; nothing is made behind the symlink either."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "elsewhere").mkdir()
    (shared / "link").symlink_to(tmp_path / "elsewhere")
    (shared / "theirs").mkdir()
    as_another = ME + 1 if ME else None

    with pytest.raises(PathError, match="is a symlink in a directory that others may write in"):
        choose_run_dir(_settings(run_dir=shared / "link" / "shop"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert find_run_dirs(_settings(run_dir=shared / "link" / "shop")) == []
    with pytest.raises(PathError, match="everybody may write in it"):
        choose_run_dir(_settings(run_dir=shared))
    if as_another is None:
        os.chown(shared / "theirs", 12345, 12345)
    with pytest.raises(PathError, match="belongs to another user"):
        choose_run_dir(_settings(run_dir=shared / "theirs" / "shop"), uid=as_another)
    assert choose_run_dir(_settings(run_dir=shared / "ours" / "shop")).is_dir()
    assert (shared / "ours").stat().st_mode & 0o777 == 0o700


def test_the_state_dir_is_the_one_that_was_set_or_systemds_or_a_run_dir_outside_run(tmp_path: Path) -> None:
    """In this order; then root's or the user's own place for state."""
    run = tmp_path / "run"
    environ = {"STATE_DIRECTORY": f"{tmp_path}/a:/b", "XDG_STATE_HOME": f"{tmp_path}/xdg", "HOME": f"{tmp_path}/home"}
    home_only = {"HOME": environ["HOME"]}
    uid = ME or 12345  # so that the user's own place is looked at, not root's

    assert choose_state_dir(_settings(state_dir=tmp_path / "s", run_dir=run), run, environ) == tmp_path / "s"
    assert choose_state_dir(_settings(run_dir=run), run, environ) == tmp_path / "a"
    assert choose_state_dir(_settings(run_dir=run), run, home_only) == run
    assert (
        choose_state_dir(_settings(), run, {"XDG_STATE_HOME": environ["XDG_STATE_HOME"]}, uid)
        == tmp_path / "xdg/swarm/shop"
    )
    assert choose_state_dir(_settings(), run, home_only, uid) == tmp_path / "home/.local/state/swarm/shop"
    set_in_run = _settings(run_dir="/run/x")
    assert choose_state_dir(set_in_run, Path("/run/x"), home_only, uid) == tmp_path / "home/.local/state/swarm/shop"


def test_a_state_dir_that_cannot_be_says_what_to_set(tmp_path: Path) -> None:
    """Whether it cannot be made or nothing says where it should be."""
    (tmp_path / "file").touch()

    with pytest.raises(PathError, match=r"swarm\.state_dir: .*not a directory.*SWARM_STATE_DIR"):
        choose_state_dir(_settings(state_dir=tmp_path / "file" / "x"), tmp_path, {})
    with pytest.raises(PathError, match="neither XDG_STATE_HOME nor HOME"):
        choose_state_dir(_settings(), tmp_path, {}, ME or 12345)
