"""Rules about names: of groups, members, hosts and transactions. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from swarm.doctor.facts import Facts, Group, LiveGroup, Member, listed
from swarm.doctor.finding import Found, Rule, Unasked
from swarm.wording import counted, plural

_UUID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_HEX: Final = re.compile(r"(?<![0-9a-z])[0-9a-f]{8,64}(?![0-9a-z])", re.IGNORECASE)
_INSTANT: Final = re.compile(r"(?<!\d)1[5-9]\d{8}(?:\d{3}|\d{6})?(?!\d)")
"""Seconds, milliseconds or microseconds since the epoch, of the years 2017 to 2033."""
_POD: Final = re.compile(r"-[bcdfghjklmnpqrstvwxz2456789]{8,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$")
"""What a Deployment puts behind its name: the hash of a ReplicaSet and of a pod, in Kubernetes' own alphabet without vowels."""
_CONTAINER: Final = re.compile(r"[0-9a-f]{12}(?:[0-9a-f]{52})?$")
_EVERYWHERE: Final = frozenset({"localhost", "localhost.localdomain", "host", "vm"})
"""Host names that say nothing, and so may well stand in another name."""


# -- the group's name ------------------------------------------------------------------------------------------------


def generated(name: str, host: str) -> str:
    """Why a group's name looks as if a program had made it up; "" where it does not."""
    if _UUID.search(name):
        return "it holds a UUID"
    if pod := _POD.search(name):
        return f"it ends like a pod's name ({pod[0][1:]})"
    for found in _HEX.findall(name):
        if sum(c.isdigit() for c in found) >= 2 and sum(c.isalpha() for c in found) >= 2:
            return f"it holds a random number or a container's id ({found})"
    if instant := _INSTANT.search(name):
        return f"it holds a moment ({instant[0]})"
    token = re.escape(host)
    if (
        len(host) >= 3
        and host.lower() not in _EVERYWHERE
        and name.lower() != host.lower()
        and re.search(rf"(?<![0-9a-z]){token}(?![0-9a-z])", name, re.IGNORECASE)
    ):
        return f"it holds this machine's name ({host})"
    return ""


def _group_id_generated(facts: Facts) -> Iterator[Found | Unasked]:
    assert facts.app is not None
    again = facts.app.groups_again
    for group in facts.app.groups:
        evidence = f"{group.name} ({group.source})"
        if again and group.name not in again:
            others = listed(name for name in again if all(name != each.name for each in facts.app.groups))
            why = "it is another one each time the application is loaded"
            evidence += f"; a second load of the application, in another process, gave {others or 'none'}"
        else:
            hosts = dict.fromkeys((facts.settings.swarm.host, facts.machine.host))
            # A daemon or an application may well be called like its machine.
            taken = {facts.settings.swarm.name, facts.app.name}
            why = next(
                filter(None, (generated(group.name, "" if host in taken else host) for host in hosts)),
                "",
            )
        if why:
            yield Found(
                f"the group id {group.name} looks generated: {why}",
                "Kafka keeps offsets by group id: under a new one each start begins at initial_offset, so messages are processed "
                "again or passed over, and several daemons each process everything.",
                "Write a literal name that stays the same: swarm.group_id, App(name), or group= of the subscription.",
                evidence,
            )
    if facts.app.again_failed:
        yield Unasked(
            f"whether a second load of the application gives the same group id: it failed: {facts.app.again_failed}"
        )


# -- who is in the group ---------------------------------------------------------------------------------------------


def is_ours(member: Member, facts: Facts, group: Group) -> bool:
    """Whether a member is a worker of a daemon of our name, on whatever host."""
    name = facts.settings.swarm.name
    if member.instance_id is not None:
        return re.fullmatch(rf"{re.escape(name)}\..+\.\d{{1,3}}", member.instance_id) is not None
    chosen = group.properties.get("client.id")
    if chosen is not None and member.client_id == chosen.text:
        return True
    return re.fullmatch(rf"{re.escape(name)}-\d{{1,3}}", member.client_id) is not None


def _is_swarm(member: Member) -> bool:
    """Whether a member looks like a worker of a daemon of another name."""
    found = re.fullmatch(r"(.+?)-(\d{1,3})", member.client_id)
    if found is None:
        return False
    seat = member.instance_id
    return seat is None or (seat.startswith(f"{found[1]}.") and seat.endswith(f".{found[2]}"))


def _strangers(facts: Facts) -> Iterator[tuple[Group, list[Member], list[Member]]]:
    """Of each group: members that read topics which are none of ours, and other members that are not ours."""
    for group in facts.groups:
        live = facts.live(group)
        if live is None:
            continue
        others = [member for member in live.members if not is_ours(member, facts, group)]
        elsewhere = [m for m in others if any(not _subscribes(group, topic) for topic, _ in m.held)]
        yield group, elsewhere, [member for member in others if member not in elsewhere]


def _subscribes(group: Group, topic: str) -> bool:
    return topic in group.topics or any(
        each.pattern is not None and re.match(each.pattern, topic) for each in group.subscriptions
    )


def _group_shared(facts: Facts) -> Iterator[Found]:
    for group, elsewhere, _ in _strangers(facts):
        if elsewhere:
            topics = sorted({topic for m in elsewhere for topic, _ in m.held if not _subscribes(group, topic)})
            yield Found(
                f"another application uses the group {group.name}",
                f"Members of it read {listed(topics)}, which this application does not subscribe to. Each rebalance of the one "
                "stops the other, and offsets of the one can be reset or deleted with those of the other.",
                "Give each application a group id of its own (swarm.group_id, or App(name)).",
                listed(member.label for member in elsewhere),
            )


def _members_not_ours(facts: Facts) -> Iterator[Found]:
    for group, _, others in _strangers(facts):
        if not others:
            continue
        alike = all(_is_swarm(member) for member in others)
        holding = sum(len(member.held) for member in others)
        yield Found(
            f"{counted(len(others), 'member')} of the group {group.name} "
            f"{plural(len(others), 'is', 'are')} not of this daemon's name",
            "They look like a swarm of another name."
            if alike
            else "Somebody else has joined under this group id: a second "
            "deployment, a console consumer, a test. What such a member reads is not processed by this application.",
            "Nothing, where that swarm runs the same application."
            if alike
            else "Find and stop it, or give it a group id of its own.",
            f"{listed(member.label for member in others)}; {plural(len(others), 'it holds', 'they hold')} {counted(holding, 'partition')}; "
            f"ours are called {facts.settings.swarm.name}.HOST.N or have the client.id {facts.settings.swarm.name}-N",
            "info" if alike else None,
        )


def _several_groups(facts: Facts) -> Iterator[Found]:
    by_topic: dict[str, list[Group]] = {}
    for group in facts.groups:
        for topic in group.topics:
            by_topic.setdefault(topic, []).append(group)
    cause = "Each group gets every message, so the work is done once per group."
    fix = "Keep one subscription to the topic; where both are meant (they do different things), nothing is wrong."
    doubled: dict[tuple[str, ...], list[str]] = {}
    for topic, groups in sorted(by_topic.items()):
        if len(groups) > 1:
            doubled.setdefault(tuple(group.name for group in groups), []).append(topic)
    for names, topics in doubled.items():
        yield Found(
            f"{len(names)} groups of this application consume {listed(topics)}",
            cause,
            fix,
            listed(f"{group.name} ({group.source})" for group in facts.groups if group.name in names),
        )
    if facts.cluster is None:
        return
    mine = {topic for group in facts.groups for topic in group.topics}
    for stranger in facts.cluster.strangers:
        topics = sorted({topic for member in stranger.members for topic, _ in member.held} & mine)
        if topics:
            yield Found(
                f"the group {stranger.name} has members of this daemon's name and consumes {listed(topics)} too",
                f"{cause} Most likely the same application runs with another group id: one that changes with each start, or an "
                "old setting.",
                "Stop that daemon, or give both the same group id.",
                f"{listed(member.label for member in stranger.members)}; this application's: "
                f"{listed(group.name for group in facts.groups)}",
                None if _related(facts, stranger) or _is_named(facts) else "info",
            )


def _related(facts: Facts, stranger: LiveGroup) -> bool:
    """Whether it is hardly another application that happens to have this daemon's name: it runs here, or its group is called alike."""
    here = f"{facts.settings.swarm.name}.{facts.settings.swarm.host}."
    stems = {_stem(group.name) for group in facts.groups}
    return _stem(stranger.name) in stems or any((m.instance_id or "").startswith(here) for m in stranger.members)


def _is_named(facts: Facts) -> bool:
    """Whether somebody has given this daemon its name: then who else has it is meant to be the same."""
    return facts.source("swarm.name") != "default"


def _stem(name: str) -> str:
    return re.sub(r"[-_.]?[0-9a-f]*[0-9][0-9a-f-]*", "", name, flags=re.IGNORECASE)


# -- hosts and transactions ------------------------------------------------------------------------------------------


def ephemeral(host: str) -> str:
    """Why a host name will not be the same after a restart; "" where it may be."""
    if _CONTAINER.fullmatch(host) and any(c.isdigit() for c in host):
        return "a container's id"
    if _POD.search(host):
        return "the name of a Deployment's pod"
    return ""


def _ephemeral_host(facts: Facts) -> Iterator[Found]:
    why = ephemeral(facts.settings.swarm.host)
    if why and facts.settings.supervision.static_membership:
        yield Found(
            f"static member ids are made with the host name {facts.settings.swarm.host}, which looks like {why}",
            "After a restart under another name the workers are new members, while the seats of the old ones keep their "
            "partitions until the session times out: nobody processes them meanwhile.",
            "Set swarm.host (SWARM_HOST) to a name that stays, as a StatefulSet's pod has one; or supervision.static_membership = "
            "false.",
            f"{facts.said('swarm.host')}; {facts.said('supervision.static_membership')}",
        )


def _transactional_ids(facts: Facts) -> Iterator[Found]:
    """Where members are static, their ids say whether two daemons share a name and a host, and `seat_contested` tells of it."""
    swarm = facts.settings.swarm
    for group in facts.groups:
        live = facts.live(group)
        if live is None or not group.exactly_once:
            continue
        met = Counter((m.client_id, m.host) for m in live.members if m.instance_id is None and is_ours(m, facts, group))
        if "client.id" in group.properties:
            continue  # it is the same for all workers
        twice = [f"client.id {client} at {host.lstrip('/')}" for (client, host), count in met.items() if count > 1]
        if twice:
            yield Found(
                f"two daemons named {swarm.name} run on one host: their transactional ids clash",
                f"A worker's transactional.id is {swarm.name}.{swarm.host}.WORKER.THREAD: each of the two ends the other's "
                "transactions again and again. (Not so where they are behind one address and have hosts of their own.)",
                "Give one of the two another swarm.name or swarm.host, or stop it. With static membership the broker itself would say so.",
                f"group {group.name} has twice: {listed(twice)}",
            )


RULES: Final = (
    Rule(
        "group_id_generated",
        "error",
        "a group id that holds a pid, UUID, random number, moment, host or pod name, or changes with each load of the app",
        _group_id_generated,
        ("app",),
    ),
    Rule(
        "group_shared",
        "error",
        "members of our groups that read topics of another application",
        _group_shared,
        ("app", "members"),
    ),
    Rule(
        "members_not_ours",
        "warning",
        "members of our groups whose client or static id is not of this daemon's name (info: another swarm's)",
        _members_not_ours,
        ("app", "members"),
    ),
    Rule(
        "several_groups_on_topic",
        "warning",
        "a topic that several groups of one application, or of one daemon name, consume (info: where only a name by default is the same)",
        _several_groups,
        ("app",),
    ),
    Rule(
        "ephemeral_host",
        "warning",
        "static member ids made with a host name that will not last: a container's id, a Deployment's pod",
        _ephemeral_host,
    ),
    Rule(
        "transactional_ids_clash",
        "warning",
        "two daemons of one name on one host whose transactions end one another's",
        _transactional_ids,
        ("app", "members"),
    ),
)
