from __future__ import annotations

import re
from collections.abc import Callable

from tests.image.conftest import Shop
from tests.support.sources import ROOT

APP = """
    from swarm import App

    app = App("shop")

    @app.subscribe("orders")
    def handle(messages):
        pass
"""


def test_a_pod_makes_directories_of_its_own_in_its_volumes(shop: Callable[..., Shop]) -> None:
    """Kubernetes' emptyDir has mode 0777, and so have some persistent volumes: with the manifest's variables the daemon trusts only
    what it has made in them, and swarmctl finds it there."""
    manifest = (ROOT / "config" / "kubernetes" / "statefulset.yaml").read_text()
    [state] = re.findall(r"- name: SWARM_STATE_DIR.*\n +value: (\S+)", manifest)
    container = shop(APP)
    container.container.open()
    running = container.start({"SWARM_STATE_DIR": state})

    status = container.until_up()

    assert (status["run_dir"], status["state_dir"]) == ("/run/swarm/shop", state)
    for place in (status["run_dir"], status["state_dir"]):
        found = running.execute("stat", "-c", "%a %u", place)
        assert found.stdout.split() == ["700", str(container.container.uid)]
    assert running.stop() == 0
