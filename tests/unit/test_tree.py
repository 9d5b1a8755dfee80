"""Who may import whom, and what the tree must not hold: the rules of the design that only a look at all files can keep."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.sources import ROOT, Source, reached, sources

KNOWN = sources()

KAFKA_PORTS = {
    "swarm.client": "consumers",
    "swarm.producer": "producers",
    "swarm.transactions": "transactional producers",
    "swarm.serialization": "the clients of schema registries, which know no broker",
    "swarm.admin": "the cluster's administration",
    "swarm.doctor.survey": "the same for `doctor`, which looks at all of a cluster that matters",
    "swarm.demo_orders": "the world around the demo's swarm: its topics, who fills them, who reads the results",
    "swarm.embedded": "the embedded broker is inside the library that confluent_kafka brings",
    "swarm.testing.broker": "the world around a test's swarm: its topics, who fills them, who reads the results, a guest in its group",
}
# Values that start nothing, which a caller of the ports meets: as an exception, in a callback, in a list of messages.
KAFKA_VALUES = {
    "confluent_kafka",  # the `from` of the others
    "confluent_kafka.KafkaError",
    "confluent_kafka.KafkaException",
    "confluent_kafka.Message",
}

# The supervisor's ways to what touches Kafka: from these modules, and only when a function is called.
DOORS = {
    "swarm.supervisor.processes": ("swarm.worker", "swarm.admin"),  # the children, after the fork; loaded before it
    "swarm.supervisor.main": ("swarm.preflight",),  # which tries librdkafka properties in a short-lived child
    "swarm.supervisor.succession": ("swarm.preflight",),  # in the rehearsal of a reload, which is another process
    "swarm.supervisor.loop": ("swarm.admin",),  # the child that asks who has which partition
}

# The commands: they run in neither a worker nor the supervisor, and may know both.
COMMANDS = ("swarm.cli", "swarm.cli.*", "swarm.demo*", "swarm.doctor.*", "swarm.preflight")

PROCESS_CALLS = {
    *(f"os.{name}" for name in ("fork", "forkpty", "kill", "killpg", "posix_spawn", "posix_spawnp")),
    *(f"os.{name}" for name in ("wait", "wait3", "wait4", "waitid", "waitpid")),
    "signal.pidfd_send_signal",
}
PROCESS_OWNERS = {
    "swarm.supervisor.processes": PROCESS_CALLS,
    "swarm.detach": PROCESS_CALLS,  # the two forks before there is a supervisor
    "swarm.demo": {"os.kill"},  # the accident that the demo shows
    "swarm.testing.daemon": {"os.kill"},  # the accidents that tests want
}


def executed(source: Source) -> Iterator[tuple[str, int, bool]]:
    for each in source.imports:
        if not each.for_types:
            yield each.name, each.line, each.in_function


def used(source: Source) -> Iterator[tuple[str, int]]:
    """`os.fork`, written so or imported as `from os import fork`."""
    yield from source.attributes
    yield from ((name, line) for name, line, _ in executed(source))


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def modules(package: str) -> list[Source]:
    return [source for name, source in KNOWN.items() if is_in(name, package)]


def touches_kafka(source: Source) -> bool:
    return any(is_in(name, "confluent_kafka") for name, _, _ in executed(source))


def test_the_rules_look_at_the_whole_package() -> None:
    """A rule over an empty list holds always; so there are modules of each folder, and they import something."""
    assert {"swarm.app", "swarm.worker", "swarm.client", "swarm.supervisor.processes", "swarm.config.load"} <= set(
        KNOWN
    )
    assert all(any(source.imports for source in modules(package)) for package in ("swarm.supervisor", "swarm.config"))


def test_settings_import_nothing_else_of_ours() -> None:
    """`swarm.config` can be read and tested alone."""
    wrong = [
        f"{source.place(line)}: {name}"
        for source in modules("swarm.config")
        for name, line, _ in executed(source)
        if is_in(name, "swarm") and not is_in(name, "swarm.config")
    ]

    assert not wrong


def test_supervisor_enters_the_workers_runtime_only_after_a_fork() -> None:
    """It names nothing that touches Kafka, but for the doors above."""
    runtime = {name for name, source in KNOWN.items() if touches_kafka(source)} | {"swarm.worker", "confluent_kafka"}
    wrong = [
        f"{source.place(line)}: {name}"
        for source in modules("swarm.supervisor")
        for name, line, in_function in executed(source)
        if name in runtime and not (in_function and name in DOORS.get(source.name, ()))
    ]

    assert not wrong


def test_importing_the_supervisor_does_not_import_kafka() -> None:
    """Not by way of another module either: a client that the parent owned would hang its children."""
    found = reached([source.name for source in modules("swarm.supervisor")], KNOWN, lazily=False)

    assert "confluent_kafka" not in found, f"imported by {found['confluent_kafka']}"


def test_importing_swarm_does_not_import_kafka() -> None:
    """An application is preloaded in the supervisor, and imports `swarm` there."""
    found = reached(["swarm"], KNOWN, lazily=False)

    assert "confluent_kafka" not in found, f"imported by {found['confluent_kafka']}"


def test_only_commands_import_the_supervisor() -> None:
    """What runs inside a worker, or is imported by an application, knows nothing of its parent."""
    wrong = [
        f"{source.place(line)}: {name}"
        for source in modules("swarm")
        if not is_in(source.name, "swarm.supervisor") and not any(fnmatch(source.name, each) for each in COMMANDS)
        for name, line, _ in executed(source)
        if is_in(name, "swarm.supervisor")
    ]

    assert not wrong


def test_worker_reaches_neither_the_supervisor_nor_the_commands() -> None:
    """However late it imports something."""
    found = reached(["swarm.worker"], KNOWN, lazily=True)
    wrong = {
        name: importer
        for name, importer in found.items()
        if is_in(name, "swarm.supervisor") or any(fnmatch(name, each) for each in COMMANDS)
    }

    assert not wrong


def test_one_module_touches_the_consumer() -> None:
    """Whoever wants to know how we poll, assign and close reads `swarm/client.py`. (Tests read topics and visit groups, too.)"""
    owners = {
        source.name
        for source in KNOWN.values()
        for name, _ in used(source)
        if name in {"confluent_kafka.Consumer", "confluent_kafka.cimpl.Consumer"}
    }

    assert owners == {"swarm.client", "swarm.testing.broker"}


def test_nothing_of_ours_needs_what_is_for_tests() -> None:
    """`swarm.testing` looks into everything, and nothing but a test looks into it."""
    wrong = [
        f"{source.place(line)}: {name}"
        for source in KNOWN.values()
        if not is_in(source.name, "swarm.testing")
        for name, line, _ in executed(source)
        if is_in(name, "swarm.testing")
    ]

    assert not wrong


def test_kafka_is_reached_through_its_ports() -> None:
    """Elsewhere only for types, and for the values above."""
    wrong = [
        f"{source.place(line)}: {name}"
        for source in KNOWN.values()
        if source.name not in KAFKA_PORTS
        for name, line in used(source)
        if is_in(name, "confluent_kafka") and name not in KAFKA_VALUES
    ]

    assert not wrong


def test_processes_are_forked_signalled_and_reaped_in_one_module() -> None:
    """`supervisor/processes.py`, and the few that have a reason (PROCESS_OWNERS)."""
    wrong = [
        f"{source.place(line)}: {call}"
        for source in KNOWN.values()
        for call, line in used(source)
        if call in PROCESS_CALLS and call not in PROCESS_OWNERS.get(source.name, ())
    ]

    assert not wrong


def test_memory_is_measured_in_one_module() -> None:
    """psutil takes time to import and to ask: `supervisor/memory.py` decides when."""
    wrong = [
        f"{source.place(line)}: {name}"
        for source in KNOWN.values()
        if source.name != "swarm.supervisor.memory"
        for name, line, _ in executed(source)
        if is_in(name, "psutil")
    ]

    assert not wrong


def test_scenarios_are_named_as_sentences() -> None:
    """A list of the files tells what the swarm promises: four words at least."""
    names = [path.stem.removeprefix("test_") for path in (ROOT / "tests" / "scenarios").rglob("test_*.py")]

    assert [name for name in names if len(name.split("_")) < 4] == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(^|[^A-Za-z0-9_.])/(work|root|farm|home)/"),
        (
            "the address of a package registry",
            r'https?://[^ )"]*(pypi|pythonhosted|maven|npmjs|crates\.io|debian\.org)',
        ),
    ],
)
def test_files_name_no_machine_and_no_registry(what: str, pattern: str) -> None:
    """The tree works in any folder, and gets its packages from wherever the machine says."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if re.search(pattern, line)
    ]

    assert not found, f"{what}:\n" + "\n".join(found)


def files() -> Iterator[Path]:
    """Those that belong to the tree: neither built nor hidden, but for the few hidden ones that are ours."""
    strange = re.compile(r"\.(?!ci$|dockerignore$|gitignore$)|(build|dist|__pycache__)$|.*\.egg-info$")
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not strange.match(name)]
        yield from (Path(folder, name) for name in names if not strange.match(name))
