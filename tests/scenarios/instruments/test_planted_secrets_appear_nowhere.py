"""Passwords, tokens and keys are planted wherever they may be set, everything is made to speak, and none of them is said by anybody."""

from __future__ import annotations

import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swarm.cli import cli
from tests.support.daemon import Daemon
from tests.support.kafka import Broker

# Where it is planted -> what. The broker speaks plain text, so librdkafka takes these properties and does not use them.
PLANTED = {
    "swarm.toml, SASL": "toml-Sasl-Secret",
    "swarm.toml, a key's password": 'toml-"quoted"-Key-Secret',
    "swarm.toml, in a URL": "toml-Url-Secret",
    "swarm.toml, a token": "toml-Token-Secret",
    "the environment": "env-Oauth-Secret",
    "an option": "option-Keystore-Secret",
    "the app's kafka=": "app-Pem-Secret-0123456789",
}

APP = """
    import ctypes
    import logging
    import os
    import time
    from swarm import App, Backoff, DeadLetter

    app = App("shop")
    SECRETS = {secrets!r}

    @app.each(
        "TOPIC", dead_letter=DeadLetter("LETTERS", max_attempts=2), backoff=Backoff(initial=0.01),
        kafka={{"ssl.key.pem": "-----BEGIN PRIVATE KEY-----\\napp-Pem-Secret-0123456789\\n-----END PRIVATE KEY-----"}}, consume_timeout=3.0,
    )
    def handle(message):
        quoted = " ".join(SECRETS) + " https://joe:toml-Url-Secret@idp.example/token"
        match message.raw:
            case b"raise":
                raise ValueError(f"no login with {{quoted}}")
            case b"log":
                logging.getLogger("shop").error("no login with %s", quoted)
                try:
                    raise RuntimeError(quoted)
                except RuntimeError:
                    logging.exception("it failed")
            case b"segv" if not os.path.exists("segv"):
                open("segv", "w").close()
                logging.warning(quoted)
                ctypes.string_at(0)
            case b"hang" if not os.path.exists("hang"):
                open("hang", "w").close()
                logging.warning(quoted)
                time.sleep(60)
"""

# Whatever shows something: extend it with every command that does. Those that are not there (yet) are left out.
COMMANDS = [
    ["status"], ["status", "--json"],
    ["backtrace", "--json"],
    ["check", "-v"], ["check", "-v", "--json"],
    ["dlq", "list", "--json"], ["dlq", "replay", "--dry-run"],
    ["doctor"], ["doctor", "--json"],
    ["audit"], ["audit", "--json"], ["audit", "--by-content"],
    ["why"], ["why", "0"], ["why", "--json"], ["why", "0", "--profile", "1"],
    ["debug"],
    ["memory", "--json"], ["memory", "0"], ["memory", "0", "--growth", "1"], ["memory", "0", "--trace"],
    ["memory", "0", "--dump", "FOLDER/heap"], ["memory", "--collect"], ["memory", "0", "--trace-off"],
    ["lag", "--json"], ["topics", "--json"], ["peek", "LETTERS"], ["peek", "LETTERS", "--json"],
]  # fmt: skip
PAGES = ["/", "/metrics", "/healthz", "/readyz", "/nothing"]


def spoken(daemon: Daemon, broker: Broker, letters: str) -> Iterator[tuple[str, bytes]]:
    """(where, what) of all that anybody said."""
    asked = [
        [arg.replace("LETTERS", letters).replace("FOLDER", str(daemon.folder)) for arg in args]
        for args in COMMANDS
        if args[0] in cli.commands
    ]
    with ThreadPoolExecutor(2) as pool:
        for args, done in zip(asked, pool.map(lambda args: daemon.run(*args, within=240), asked), strict=True):
            assert "Traceback" not in done.stderr, (args, done.stderr)
            yield f"swarmctl {' '.join(args)}", (done.stdout + done.stderr).encode()
    for page in PAGES:
        try:
            with urllib.request.urlopen(daemon.url + page, timeout=10) as answer:
                yield page, answer.read()
        except urllib.error.HTTPError as error:
            yield page, error.read()
    for pid in [daemon.pid, *(worker["pid"] for worker in daemon.workers())]:
        yield f"/proc/{pid}/cmdline", Path(f"/proc/{pid}/cmdline").read_bytes()
    for letter in broker.read_all(letters):
        yield "a dead letter's headers", repr(letter.headers()).encode()


def files(daemon: Daemon) -> Iterator[tuple[str, bytes]]:
    """Run directory, state directory, stdout, stderr, but what the test has written itself."""
    run_dir = Path(str(daemon.settings["swarm"]["run_dir"]))
    for folder in (daemon.folder, run_dir):
        for path in folder.rglob("*"):
            ours = path.parent == daemon.folder and path.suffix in (".toml", ".py")
            if path.is_file() and not ours and "__pycache__" not in path.parts:
                yield str(path.relative_to(folder)), path.read_bytes()


@pytest.mark.limit(600)  # some twenty commands, each a process
def test_nobody_says_a_secret(
    broker: Broker, topic: Callable[..., str], swarm_project: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the start, the log at debug level, status, backtraces, incidents of a crash and of a hang, any other command, a title, the
    metrics, the page, nor a dead letter; also where the application itself quotes them in its errors and log."""
    name, letters = topic(), topic()
    source = APP.format(secrets=list(PLANTED.values())).replace("TOPIC", name).replace("LETTERS", letters)
    kafka = {
        "sasl.username": PLANTED["swarm.toml, SASL"] + "-user",
        "sasl.password": PLANTED["swarm.toml, SASL"],
        "ssl.key.password": PLANTED["swarm.toml, a key's password"],
        "sasl.oauthbearer.token.endpoint.url": f"https://joe:{PLANTED['swarm.toml, in a URL']}@idp.example/token",
        "sasl.oauthbearer.config": f"token={PLANTED['swarm.toml, a token']}",
        "debug": "conf,security",
    }
    daemon = swarm_project(source, {"swarm": {"workers": 1}, "kafka": kafka})
    daemon.expect_errors("consume_failed", "message_dead_lettered", "log", "worker_killed")
    # `Daemon` takes SWARM_ out of the environment, so it comes with the command.
    monkeypatch.setattr(
        daemon, "_environment",
        lambda plain=daemon._environment: plain() | {"SWARM_KAFKA__SASL_OAUTHBEARER_CLIENT_SECRET": PLANTED["the environment"]},
    )  # fmt: skip
    daemon.start("-o", f"kafka.ssl.keystore.password={PLANTED['an option']}").until_running()

    broker.produce(name, [(None, text) for text in ("raise", "log", "segv", "hang", "end")])
    daemon.wait_for_event("message_dead_lettered")
    daemon.wait_for_event("worker_exited", signal="SIGSEGV")
    daemon.wait_for_event("worker_stopping", reason="consume_timeout")
    daemon.signal(signal.SIGTTIN)
    daemon.wait_for(lambda: broker.committed(daemon.group).get((name, 0)) == 5, within=60, what="the end of the topic")
    if "debug" in cli.commands:  # whose file in the state directory is what librdkafka says of its properties
        daemon.run("debug", "0", "--flags", "conf,security", "--for", "2", within=240)
    daemon.until_running(60)

    said = [*spoken(daemon, broker, letters), *files(daemon)]
    os.kill(daemon.workers()[0]["pid"], signal.SIGKILL)
    assert daemon.stop() == 0
    said += files(daemon)

    heard = {where for where, _ in said}
    assert {"stderr", "/", "/metrics", "swarmctl check -v", "a dead letter's headers", "heap"} <= heard
    assert any(re.search(r"incidents/.*\.json", where) for where in heard)
    assert b"no login with ****" in next(what for where, what in said if where == "stderr"), "it was quoted, and hidden"
    for planted, secret in PLANTED.items():
        for written in {secret, secret.replace('"', '\\"')}:
            assert [where for where, what in said if written.encode() in what] == [], planted
