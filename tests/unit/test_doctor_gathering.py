"""Where facts come from: manifests, systemd's spans, versions, status, the journal, the application."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.config import load_settings
from swarm.doctor import gathering, past
from swarm.doctor.application import _about, _group, _groups_again, _in_short
from swarm.doctor.identity import ephemeral, generated
from swarm.doctor.versions import DEFECTS, defects_of, parsed
from swarm.journal_reader import Assignment, History, Process, Run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50", 50.0),
        ("50s", 50.0),
        ("1min 30s", 90.0),
        ("1h", 3600.0),
        ("500ms", 0.5),
        ("infinity", float("inf")),
        ("", float("inf")),
        ("3 fortnights", float("inf")),
    ],
)
def test_spans_are_read_as_systemd_writes_them(text: str, seconds: float) -> None:
    assert gathering.systemd_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "name", "seconds"),
    [
        ("spec:\n      terminationGracePeriodSeconds: 50\n", "terminationGracePeriodSeconds", 50.0),
        ("apiVersion: apps/v1\nkind: StatefulSet\n", "terminationGracePeriodSeconds", 30.0),
        ("[Service]\nTimeoutStopSec=1min\n", "TimeoutStopSec", 60.0),
        ("[Service]\nTimeoutSec=20\n", "TimeoutSec", 20.0),
        ("[Service]\nExecStart=/bin/true\n", "TimeoutStopSec", 90.0),
    ],
)
def test_a_stop_limit_is_found_in_unit_files_and_manifests(
    text: str, name: str, seconds: float, tmp_path: Path
) -> None:
    file = tmp_path / "manifest"
    file.write_text(text)
    found = gathering._from_manifest(file)

    assert found is not None
    assert (found.name, found.seconds) == (name, seconds)
    assert str(file) in found.source


def test_a_file_that_is_neither_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\n")

    assert gathering._from_manifest(tmp_path / "x") is None


def test_our_own_unit_and_manifest_have_stop_limits_that_are_enough() -> None:
    root = Path(__file__).parents[2]
    for name in ("systemd/swarm@.service", "config/kubernetes/statefulset.yaml"):
        found = gathering._from_manifest(root / name)
        assert found is not None
        assert found.seconds >= 30 + 5


@pytest.mark.parametrize(
    "name", ["shop", "shop-v2", "orders-20260131", "deadbeef", "shop-0", "team7.orders_42", "a1b2"]
)
def test_names_that_people_give_are_not_called_generated(name: str) -> None:
    assert generated(name, "web1") == ""


@pytest.mark.parametrize("host", ["web1", "shop-0", "ip-10-0-0-7", "kafka-prod-01", "deadbeef", "facade123456a"])
def test_hosts_that_last_are_not_called_ephemeral(host: str) -> None:
    assert ephemeral(host) == ""


@pytest.mark.parametrize("host", ["3f2a9c1b7d4e", "shop-7d9c6b5f4d-x2zkq"])
def test_hosts_that_do_not_last_are(host: str) -> None:
    assert ephemeral(host)


@pytest.mark.parametrize(("text", "numbers"), [("2.16.1rc1", (2, 16, 1)), ("3.12", (3, 12)), ("dev", ())])
def test_versions_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert parsed(text) == numbers


def test_defects_begin_and_end_where_the_table_says() -> None:
    for defect in DEFECTS:
        fixed = ".".join(map(str, defect.fixed))
        first = ".".join(map(str, defect.since))
        assert defect in defects_of(defect.package, first)
        assert defect not in defects_of(defect.package, fixed)
        assert defect.source
    assert defects_of("librdkafka", "unknown") == []


def journal(*runs: Run, holder: int = 0, since: float = 1000.0) -> History:
    process = Process("dir", 7, holder, "shop", "web1", "0", "", since)
    assignment = Assignment(process, 1, "shop", "orders", 0, 0, since, {}, runs=list(runs))
    return History([Process("dir", 7, holder, "shop", "web1", "0", "", since, [assignment])])


def test_batches_of_the_journal_are_added_up_by_topic() -> None:
    history = journal(
        Run(0, 100, 900.0, 950.0, 1, "done", 1, batches=4, messages=100, seconds=50.0, longest=40.0),
        Run(100, 200, 1000.0, 1010.0, 1, "done", 2, batches=2, messages=90, seconds=10.0, longest=7.0),
        Run(200, 210, 1010.0, 1013.0, 2, "failed", 3, seconds=3.0),
        Run(210, 220, 1013.0, 1013.0, 1, "in_hand", 4),
    )

    (seen,) = past.batches(history, since=960.0)

    assert (seen.where, seen.count, seen.messages, seen.seconds, seen.longest) == ("orders", 3, 100, 13.0, 7.0)


def test_a_partition_that_goes_to_another_worker_has_changed_hands() -> None:
    history = History()
    for number, holder in enumerate([0, 0, 1, 0, 1]):
        history.processes += journal(holder=holder, since=1000.0 + number).processes

    (found,) = past.handovers(history, since=0.0)

    assert (found.seat, found.times) == (("shop", "orders", 0), 3)


def test_an_application_is_described_with_the_sources_of_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "described_app.py").write_text(
        "from swarm import App, DeadLetter, RateLimit\n"
        'app = App("shop")\n'
        '@app.subscribe("orders", kafka={"max.poll.interval.ms": 600000}, dead_letter=DeadLetter("orders.dead"))\n'
        "def orders(messages): pass\n"
        '@app.each("emails", group="mail", consume_timeout=5.0, rate_limit=RateLimit(10))\n'
        "def email(message): pass\n"
    )
    (tmp_path / "swarm.toml").write_text(
        '[swarm]\napp = "described_app:app"\n[kafka]\n"bootstrap.servers" = "b:9092"\n"session.timeout.ms" = 30000\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    about, _ = _about(load_settings())
    shop, mail = (_group(each) for each in about["groups"])

    assert (shop.name, shop.source, shop.members) == ("shop", "App('shop')", 4)
    assert shop.said("session.timeout.ms") == "session.timeout.ms = 30000 (swarm.toml)"
    assert "kafka= of the subscription to orders" in shop.said("max.poll.interval.ms")
    assert shop.said("heartbeat.interval.ms") == "heartbeat.interval.ms = 1000 (default of kafka-swarm)"
    assert "client.id" not in shop.properties, "ours differs from worker to worker"
    assert shop.subscriptions[0].dead_letter == "orders.dead"
    assert mail.source.startswith("group= of the subscription to emails")
    assert (mail.subscriptions[0].limit, mail.subscriptions[0].waits) == (5.0, 1e9)


@pytest.mark.parametrize("fails", ["at import", "when chosen from"])
def test_what_a_second_load_says_when_it_fails_tells_no_secret(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"failing_{fails.replace(' ', '_')}"
    error = 'RuntimeError("no login with subscriptions77 nor with settings88")'
    (tmp_path / f"{module}.py").write_text(
        "from swarm import App\n"
        "class Late(App):\n"
        f"    def groups(self, default): raise {error}\n"
        'app = Late("shop")\n'
        '@app.subscribe("orders", kafka={"sasl.password": "subscriptions77"})\n'
        "def orders(messages): pass\n" + (f"raise {error}\n" if fails == "at import" else "")
    )
    (tmp_path / "swarm.toml").write_text(
        f'[swarm]\napp = "{module}:app"\n[kafka]\n"bootstrap.servers" = "b:9092"\n"sasl.password" = "settings88"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    said = _groups_again(load_settings())["failed"]

    assert "no login with" in said
    assert "subscriptions77" not in said
    assert "settings88" not in said


def test_a_long_error_is_said_in_one_line_of_three_hundred_characters() -> None:
    assert _in_short("no\n  login") == "no login"
    assert len(_in_short("x" * 1000)) == 300
    assert _in_short("x" * 300) == "x" * 300
