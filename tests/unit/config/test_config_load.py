"""From file, environment and options to Settings: what wins, where it came from, and everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swarm.config import Loaded, Problem, Settings, SettingsError, load_settings
from swarm.config.machine import usable_cpus

GOOD = '[swarm]\napp = "shop.app:app"\n[kafka]\n"bootstrap.servers" = "127.0.0.1:9092"\n'
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes swarm.toml into the current directory (an empty one) and returns its relative path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("swarm.toml").write_text(text)
        return Path("swarm.toml")

    return write


def load(
    text: str = "",
    *options: str,
    environ: dict[str, str] | None = None,
    app: str | None = None,
    workers: str | None = None,
) -> Loaded:
    """Settings from a text in place of the file, with nothing required."""
    if text:
        Path("swarm.toml").write_text(text)
    return load_settings(
        overrides=options, environ=environ or {}, app=app, workers=workers, require_app=False, require_kafka=False
    )


def problems(text: str = "", *options: str, environ: dict[str, str] | None = None) -> list[Problem]:
    """What is wrong with settings that do not load."""
    with pytest.raises(SettingsError) as caught:
        load(text, *options, environ=environ)
    return list(caught.value.problems)


pytestmark = pytest.mark.usefixtures("write")


def test_a_minimal_file_loads_with_the_name_of_the_apps_module(write: Write, tmp_path: Path) -> None:
    """The path is absolute, and the file's directory is where the application is looked for."""
    loaded = load_settings(write(GOOD), environ={})

    assert loaded.settings.swarm.app == "shop.app:app"
    assert loaded.settings.swarm.name == "shop"
    assert loaded.settings.kafka == {"bootstrap.servers": "127.0.0.1:9092"}
    assert (loaded.path, loaded.base_dir) == (tmp_path / "swarm.toml", tmp_path)
    assert loaded.warnings == []


def test_without_a_file_there_are_defaults_environment_and_options(tmp_path: Path) -> None:
    """No file is no mistake as long as none was named."""
    loaded = load_settings(
        environ={"SWARM_APP": "shop:app"}, overrides=["kafka.bootstrap.servers=127.0.0.1:9092"], workers="2"
    )

    assert (loaded.settings.swarm.app, loaded.settings.swarm.workers) == ("shop:app", 2)
    assert loaded.settings.kafka == {"bootstrap.servers": "127.0.0.1:9092"}
    assert (loaded.path, loaded.base_dir) == (None, tmp_path)


def test_options_beat_the_environment_and_the_environment_beats_the_file() -> None:
    """Each value remembers its source, in the words in which the user gave it."""
    text = '[swarm]\nworkers = 1\nname = "file"\nshutdown_timeout = "10m"\n[log]\nlevel = "debug"\n'
    environ = {"SWARM_WORKERS": "2", "SWARM_NAME": "env", "SWARM_LOG__LEVEL": "error"}

    loaded = load(text, "swarm.workers=3", "log.level=warning", environ=environ, workers="4")

    assert loaded.settings.swarm.workers == 4
    assert loaded.settings.swarm.name == "env"
    assert loaded.settings.swarm.shutdown_timeout == 600.0
    assert loaded.settings.log.level == "warning"
    assert {
        key: loaded.sources[key] for key in ("swarm.workers", "swarm.name", "swarm.shutdown_timeout", "log.level")
    } == {
        "swarm.workers": "--workers",
        "swarm.name": "SWARM_NAME",
        "swarm.shutdown_timeout": "swarm.toml",
        "log.level": "-o log.level",
    }
    assert loaded.sources["worker.concurrency"] == "default"


def test_text_from_the_environment_becomes_what_the_setting_is() -> None:
    """Numbers, times, sizes, truth values and inline tables; a name of digits stays a text."""
    settings = load(
        environ={
            "SWARM_WORKERS": "8",
            "SWARM_PRELOAD": "no",
            "SWARM_NAME": "007",
            "SWARM_SUPERVISION__MEMORY_LIMIT": "512MiB",
            "SWARM_SUPERVISION__POLL_TIMEOUT": "2.5",
            "SWARM_SUPERVISION__RESTART_BACKOFF": '{ initial = 1, maximum = "1m" }',
            "SWARM_SUPERVISION__RESTART_BACKOFF__FACTOR": "3",
        }
    ).settings

    assert (settings.swarm.workers, settings.swarm.preload, settings.swarm.name) == (8, False, "007")
    assert (settings.supervision.memory_limit, settings.supervision.poll_timeout) == (512 * 1024**2, 2.5)
    backoff = settings.supervision.restart_backoff
    assert (backoff.initial, backoff.factor, backoff.maximum, backoff.reset_after) == (1.0, 3.0, 60.0, 60.0)


def test_a_part_of_an_inline_table_leaves_the_rest_as_it_was() -> None:
    """Tables are merged key by key over the layers."""
    text = "[supervision]\nrestart_backoff = { initial = 2.0, maximum = 20.0 }\n"

    loaded = load(text, "supervision.restart_backoff.initial=1")

    backoff = loaded.settings.supervision.restart_backoff
    assert (backoff.initial, backoff.maximum) == (1.0, 20.0)
    assert loaded.sources["supervision.restart_backoff.initial"] == "-o supervision.restart_backoff.initial"
    assert loaded.sources["supervision.restart_backoff.maximum"] == "swarm.toml"


def test_kafka_properties_are_read_from_all_three_places() -> None:
    """Underscores of a variable are dots, TOML's quotes may be forgotten, and secrets keep every character."""
    text = '[kafka]\nbootstrap.servers = "a:9092"\n"socket.keepalive.enable" = true\n"linger.ms" = 0.5\n'
    environ = {
        "SWARM_KAFKA__BOOTSTRAP_SERVERS": "b:9092",
        "SWARM_KAFKA__SASL_PASSWORD": "1e5",
        "SWARM_KAFKA__LOG_LEVEL": "7",
    }

    loaded = load(text, "kafka.ssl.ca.location=/ca.pem", 'kafka.client.id="x=y"', environ=environ)

    assert loaded.settings.kafka == {
        "bootstrap.servers": "b:9092",
        "socket.keepalive.enable": True,
        "linger.ms": 0.5,
        "sasl.password": "1e5",
        "log_level": 7,
        "ssl.ca.location": "/ca.pem",
        "client.id": "x=y",
    }
    assert loaded.sources["kafka.bootstrap.servers"] == "SWARM_KAFKA__BOOTSTRAP_SERVERS"
    assert loaded.settings.kafka["socket.keepalive.enable"] is True


def test_every_problem_is_reported_at_once_with_key_source_and_fix() -> None:
    """Names, values, tables, properties and combinations, from all three places."""
    text = (
        "wrokers = 3\n[swarm]\nworkers = 0\nnmae = 'x'\n[supervison]\n[supervision]\nconcurrency = 2\npoll_timeout = 'fast'\n"
        "memory_limit = '2GiB'\nmemory_kill = '1GiB'\nrestart_backoff = 5\n[kafka]\n'group.id' = 'x'\n[log]\nlevel = 'warn'\n"
    )

    found = {p.where: p for p in problems(text, "observer.port=x", environ={"SWARM_WORKER__CONCURRENCY": "0"})}

    assert {where: p.source for where, p in found.items()} == {
        "wrokers": "swarm.toml",
        "swarm.nmae": "swarm.toml",
        "swarm.workers": "swarm.toml",
        "supervison": "swarm.toml",
        "supervision.concurrency": "swarm.toml",
        "supervision.poll_timeout": "swarm.toml",
        "supervision.memory_kill": "swarm.toml",
        "supervision.restart_backoff": "swarm.toml",
        "kafka.group.id": "swarm.toml",
        "log.level": "swarm.toml",
        "observer.port": "-o observer.port",
        "worker.concurrency": "SWARM_WORKER__CONCURRENCY",
    }
    assert "swarm.group_id" in found["kafka.group.id"].fix
    assert "Did you mean swarm.workers?" in found["wrokers"].fix
    assert "Did you mean name?" in found["swarm.nmae"].fix
    assert "Did you mean supervision?" in found["supervison"].fix
    assert "Did you mean worker.concurrency?" in found["supervision.concurrency"].fix
    assert "Did you mean warning?" in found["log.level"].fix
    assert all(problem.fix for problem in found.values())


def test_a_problem_reads_as_one_sentence_with_its_source_and_the_fix() -> None:
    """The wording that the style guide gives as its example."""
    [problem] = problems("[swarm]\nworkers = 0\n")

    assert str(problem) == (
        'swarm.workers: expected an integer from 1 to 256 or "auto", got 0 (swarm.toml). '
        "A swarm without workers consumes nothing; set it, or SWARM_WORKERS, to 1 or more."
    )


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[swarm]\nworkers = true", "swarm.workers"),
        ("[swarm]\nworkers = 257", "swarm.workers"),
        ("[swarm]\nworkers = 4.0", "swarm.workers"),
        ("[swarm]\nworkers = [4]", "swarm.workers"),
        ("[swarm]\napp = 'shop.app'", "swarm.app"),
        ("[swarm]\napp = 3", "swarm.app"),
        ("[swarm]\nname = '..'", "swarm.name"),
        ("[swarm]\nname = 'a/b'", "swarm.name"),
        ("[swarm]\nname = 'a\\n'", "swarm.name"),
        ("[swarm]\nname = ''", "swarm.name"),
        ("[swarm]\npreload = 1", "swarm.preload"),
        ("[swarm]\nrun_dir = ''", "swarm.run_dir"),
        ("[swarm]\nstate_dir = '~/x'", "swarm.state_dir"),
        ("[swarm]\nshutdown_timeout = 0", "swarm.shutdown_timeout"),
        ("[swarm]\nshutdown_timeout = nan", "swarm.shutdown_timeout"),
        ("[swarm]\nshutdown_timeout = inf", "swarm.shutdown_timeout"),
        ("[swarm]\nshutdown_timeout = 1979-05-27", "swarm.shutdown_timeout"),
        ("[supervision]\nmemory_limit = 512", "supervision.memory_limit"),
        ("[supervision]\nmemory_metric = 'vss'", "supervision.memory_metric"),
        ("[supervision]\nstatic_membership = 'maybe'", "supervision.static_membership"),
        ("[supervision]\nrestart_backoff = { factor = 0.5 }", "supervision.restart_backoff.factor"),
        ("[supervision]\nrestart_backoff = { inital = 1 }", "supervision.restart_backoff.inital"),
        ("[observer]\nport = 65536", "observer.port"),
        ("swarm = 3", "swarm"),
        ("kafka = 3", "kafka"),
        ("[kafka]\n'bootstrap.servers' = ['a:1', 'b:2']", "kafka.bootstrap.servers"),
        ("[kafka]\n'linger.ms' = nan", "kafka.linger.ms"),
        ("[kafka]\nclient.id = 'a'\n'client.id' = 'b'", "kafka.client.id"),
    ],
)
def test_a_value_that_cannot_be_is_one_problem_that_names_the_key(text: str, where: str) -> None:
    """One mistake is one problem: no follow-ups, no exception of another type."""
    assert [problem.where for problem in problems(text)] == [where]


@pytest.mark.parametrize("option", ["workers=4", "swarm.workers", "=", "swarm.=3", ".workers=3", ""])
def test_an_option_without_section_key_and_value_is_a_problem(option: str) -> None:
    """The fix shows how to write it."""
    [problem] = problems("", option)

    assert problem.where == "-o"
    assert "-o swarm.workers=…" in problem.fix


def test_a_wrong_value_does_not_also_break_a_rule() -> None:
    """A rule that reads a setting which is wrong anyway is not tried on its default."""
    text = "[supervision]\nrestart_backoff = { initial = 60, maximum = 'x' }\n"

    assert [problem.where for problem in problems(text)] == ["supervision.restart_backoff.maximum"]


def test_what_is_required_and_missing_is_said_with_the_ways_to_set_it(write: Write) -> None:
    """Start and check need an application and a broker; other commands do not."""
    path = write("[log]\nlevel = 'info'\n")

    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ={})

    assert [problem.where for problem in caught.value.problems] == ["swarm.app", "kafka.bootstrap.servers"]
    assert "--app" in caught.value.problems[0].fix
    assert "SWARM_KAFKA__BOOTSTRAP_SERVERS" in caught.value.problems[1].fix
    assert load_settings(path, environ={}, require_app=False, require_kafka=False).settings.swarm.app is None


@pytest.mark.parametrize("content", ["[swarm\n", "a = 1\na = 2\n", "x = " + "[" * 5000, "", "\xff"])
def test_a_file_that_is_not_toml_is_one_problem_that_says_where(tmp_path: Path, content: str) -> None:
    """Nothing is said to be missing that the file may well hold; an empty file is valid."""
    file = tmp_path / "other.toml"
    file.write_bytes(content.encode("latin-1"))

    with pytest.raises(SettingsError) as caught:
        load_settings(file, environ={"SWARM_WORKERS": "0"}, require_app=False, require_kafka=False)

    expected = ["settings file", "swarm.workers"] if content else ["swarm.workers"]
    assert [problem.where for problem in caught.value.problems] == expected
    assert all(str(problem).count("\n") == 0 for problem in caught.value.problems)


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    """By option or by SWARM_CONFIG; the problem says which. A directory is no file either."""
    for path, environ, source in (
        (Path("no.toml"), {}, "--config"),
        (None, {"SWARM_CONFIG": "no.toml"}, "SWARM_CONFIG"),
        (tmp_path, {}, "--config"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(path, environ=environ)
        [problem] = caught.value.problems
        assert (problem.where, problem.source) == ("settings file", source)


def test_swarm_config_names_the_file_and_the_option_beats_it(tmp_path: Path) -> None:
    """--config, else SWARM_CONFIG, else ./swarm.toml."""
    for name in ("swarm", "env", "option"):
        (tmp_path / f"{name}.toml").write_text(f"{GOOD}[observer]\nhost = '{name}'\n")
    environ = {"SWARM_CONFIG": "env.toml"}

    assert load_settings(environ={}).settings.observer.host == "swarm"
    assert load_settings(environ=environ).settings.observer.host == "env"
    assert load_settings(Path("option.toml"), environ=environ).settings.observer.host == "option"
    assert load_settings(environ={"SWARM_CONFIG": ""}).settings.observer.host == "swarm"


def test_unknown_variables_are_warnings() -> None:
    """Others make such names, Kubernetes for one, so they stop nothing; a slip of the pen gets a hint."""
    environ = {
        "SWARM_WORKRES": "3",
        "SWARM_SERVICE_HOST": "10.0.0.1",
        "SWARM_PORT_9464_TCP_ADDR": "10.0.0.1",
        "SWARMS": "1",
    }

    warnings = load(environ=environ).warnings

    assert len(warnings) == 3
    assert "Kubernetes" in warnings[0]
    assert "Kubernetes" in warnings[1]
    assert "SWARM_WORKRES" in warnings[2]
    assert "Did you mean SWARM_WORKERS?" in warnings[2]


def test_relative_directories_are_relative_to_the_file(tmp_path: Path) -> None:
    """Where the daemon was started from does not matter."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/my.toml").write_text(f"{GOOD}[log]\n".replace("[kafka]", 'run_dir = "run"\n[kafka]'))

    settings = load_settings(Path("etc/my.toml"), environ={"SWARM_STATE_DIR": "/var/x"}).settings

    assert settings.swarm.run_dir == tmp_path / "etc/run"
    assert settings.swarm.state_dir == Path("/var/x")


def test_auto_workers_are_the_usable_cpus() -> None:
    """Resolved when loaded, from any source."""
    assert load(workers="auto").settings.swarm.workers == usable_cpus()
    assert load("[swarm]\nworkers = 'auto'\n").settings.swarm.workers == usable_cpus()


def test_an_apps_module_that_is_no_safe_name_is_made_one() -> None:
    """Python allows letters that Kafka does not."""
    assert load(app="größe.app:app").settings.swarm.name == "gr--e"


def test_settings_cannot_be_changed() -> None:
    """They are a value; a reload makes new ones."""
    with pytest.raises(ValidationError):
        Settings().swarm.workers = 3


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "SWARM_WORKERS",
                "SWARM_NAME",
                "SWARM_APP",
                "SWARM_RUN_DIR",
                "SWARM_OBSERVER__PORT",
                "SWARM_KAFKA__CLIENT_ID",
                "SWARM_SUPERVISION__RESTART_BACKOFF",
                "SWARM_SUPERVISION__MEMORY_LIMIT",
                "SWARM_LOG__LEVEL",
                "SWARM_PRELOAD",
            ]
        ),
        st.one_of(st.text(), st.sampled_from(["{}", "{a=1}", "[1]", "auto", "1", "\udcff", "'x'", "1\n[kafka]"])),
    ),
    st.lists(st.text(), max_size=2),
)
def test_no_text_gets_anything_but_settings_or_a_settings_error(environ: dict[str, str], options: list[str]) -> None:
    """Whatever is in the environment or in an option, a person gets a few readable lines, never a traceback."""
    try:
        loaded = load_settings(environ=environ, overrides=options, require_app=False, require_kafka=False)
    except SettingsError as error:
        text = error.render()
        text.encode()
        assert 1 <= len(text.split("\n")) <= 6
    else:
        assert isinstance(loaded.settings, Settings)
