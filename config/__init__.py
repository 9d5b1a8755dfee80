"""The settings: what they are, where they come from, which values make sense. Imports nothing of ours; starts nothing.

`load_settings` reads `swarm.toml`, then the environment, then the command line's options, and returns `Loaded`; what is wrong is
reported all together as one `SettingsError`. A new section is a class and a field in `schema.py` and a block in `swarm.toml`.
"""

from swarm.config.kafka import check_properties, hidden, hider, redact
from swarm.config.load import Loaded, load_settings
from swarm.config.memory import fetch_budget, memory_budget
from swarm.config.paths import (
    PathError,
    choose_run_dir,
    choose_state_dir,
    find_run_dirs,
    find_state_dir,
    run_dir_candidates,
)
from swarm.config.problems import Problem, SettingsError
from swarm.config.schema import Settings

__all__ = [
    "Loaded",
    "PathError",
    "Problem",
    "Settings",
    "SettingsError",
    "check_properties",
    "choose_run_dir",
    "choose_state_dir",
    "fetch_budget",
    "find_run_dirs",
    "find_state_dir",
    "hidden",
    "hider",
    "load_settings",
    "memory_budget",
    "redact",
    "run_dir_candidates",
]
