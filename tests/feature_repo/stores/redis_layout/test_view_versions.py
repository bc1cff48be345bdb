"""Versions of a view: a changed definition stands beside the old one until that is retired, and nobody answers from
the wrong one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from feature_repo.errors import DefinitionError
from feature_repo.stores.applied_views import AppliedViews, read_views, superseded
from feature_repo.stores.redis_layout.keys import state_field, version_id
from feature_repo.stores.redis_layout.view_versions import KeptVersions, mark_filled, publish, versions_key
from feature_repo.windows.spec import Aggregate
from flows.backfill import backfill
from flows.retire import kept_versions, retire
from flows.settings import FlowSettings
from tests.flows.test_backfill import filled_versions, history, settings_of
from tests.kits.flow_output import states_online
from tests.kits.flow_process import RUN, running_command
from tests.kits.payments import encoded, payment
from tests.kits.payments import publish as send
from tests.kits.views import HOUR_US, VIEWS, apply_views

OLD = VIEWS.streams["payments"][0]
LONGER = replace(
    OLD, aggregates=(*OLD.aggregates, Aggregate("account_amount_sum_2h", "sum", "amount", 2 * HOUR_US))
)
SHORTER = replace(
    OLD, aggregates=(*OLD.aggregates, Aggregate("account_amount_sum_5m", "sum", "amount", HOUR_US // 12))
)


def test_longer_window_is_another_version_and_a_shorter_one_is_not() -> None:
    assert version_id(LONGER) != version_id(OLD) == version_id(SHORTER)
    assert version_id(replace(OLD, join_keys=("merchant_id",))) != version_id(OLD)


def test_changed_and_removed_views_stay_as_earlier_versions() -> None:
    daily, merchant = VIEWS.streams["payments"][1:]
    changed = {"payments": (LONGER, daily)}
    earlier = superseded(VIEWS, changed)
    assert earlier == {"payments": (OLD, merchant)}
    views = AppliedViews("p", changed, earlier=earlier)
    assert superseded(views, {"payments": (SHORTER, daily)}) == {"payments": (LONGER, merchant)}
    with pytest.raises(DefinitionError, match="Give it another name"):
        superseded(VIEWS, {"labels": (OLD,)})


def test_views_file_keeps_earlier_versions(tmp_path: Path) -> None:
    settings = FlowSettings(home=tmp_path)
    views = AppliedViews("millstream", {"payments": (LONGER,)}, earlier={"payments": (OLD,)})
    apply_views(settings, views)
    assert read_views(tmp_path / "views.json") == views
    assert views.entities("payments") == {("account_id",): (LONGER, OLD)}


def test_reader_knows_which_versions_are_kept_and_filled(clean_redis: redis.Redis) -> None:
    def known() -> KeptVersions:
        return KeptVersions.of(clean_redis.hkeys(versions_key("p")))  # type: ignore[arg-type]

    assert known().problem(OLD) == ""  # nobody has said anything
    publish(clean_redis, "p", [OLD])
    assert "not filled yet" in known().problem(OLD)
    mark_filled(clean_redis, "p", [version_id(OLD)], 0, 2)
    assert "1 of 2 parts" in known().problem(OLD)
    mark_filled(clean_redis, "p", [version_id(OLD)], 1, 2)
    assert known().problem(OLD) == ""
    publish(clean_redis, "p", [OLD, LONGER])
    assert known().is_filled(OLD)
    publish(clean_redis, "p", [LONGER])
    mark_filled(clean_redis, "p", [version_id(OLD)], 0, 2)  # a flow that has not heard of it
    assert "is not kept online" in known().problem(OLD)
    assert version_id(LONGER).partition(":")[2] in known().problem(OLD)


def test_flow_keeps_both_versions_until_the_old_one_is_retired_under_its_hands(
    home: Path, clean_redis: redis.Redis, redis_url: str
) -> None:
    settings = settings_of(redis_url)
    before = AppliedViews("millstream", {"payments": (OLD,)})
    both = AppliedViews("millstream", {"payments": (LONGER,)}, earlier={"payments": (OLD,)})
    history(home, settings, before, 1_000)
    with running_command(settings, *RUN, "--epoch-ms", "100") as flow:
        send(clean_redis, [encoded(payment(n)) for n in range(1_000, 1_200)])
        flow.wait_for_events(1_200)
        apply_views(settings, both)
        assert backfill(settings) == [version_id(LONGER)]
        send(clean_redis, [encoded(payment(n)) for n in range(1_200, 1_400)])
        flow.wait_for_events(1_400)
        flow.wait_for_states(clean_redis, both, 20)

        current, earlier = kept_versions(settings, read_views(settings.home / "views.json"))
        assert (current.spec, current.current, earlier.spec, earlier.current) == (LONGER, True, OLD, False)
        with pytest.raises(DefinitionError, match="is what the repo defines now"):
            retire(settings, [current])
        with pytest.raises(DefinitionError, match="read by champion fraud 1"):
            retire(settings, [replace(earlier, in_use=("champion fraud 1",))])
        retire(settings, [earlier])
        send(clean_redis, [encoded(payment(n)) for n in range(1_400, 1_600)])
        flow.wait_for_events(1_600)
        after = AppliedViews("millstream", {"payments": (LONGER,)})
        flow.wait_for_states(clean_redis, after, 20)
    keys = states_online(clean_redis, after)
    assert keys
    assert not any(clean_redis.hexists(key, state_field(OLD)) for key in keys)
    assert filled_versions(clean_redis) == {version_id(LONGER)}
