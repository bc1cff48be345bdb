"""Through Feast's servers with authentication on, each role reads what is its own to read and is refused the rest."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import requests
from click.testing import CliRunner
from feast import FeatureStore, RepoConfig
from feast.cli.cli import cli
from feast.errors import FeastPermissionError
from feast.permissions import security_manager
from feast.permissions.action import ALL_ACTIONS, READ, AuthzedAction
from feast.permissions.enforcer import enforce_policy
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy
from feast.permissions.user import User
from feast.types import Float64, Int64, UnixTimestamp

from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.stores.applied_views import read_views
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.stores.open_store import REPO, config_file, open_store
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.columns import BlockColumns
from feature_repo.windows.state import KeyIndex, ViewState
from tests.kits.applied_home import feast, log_payments
from tests.kits.feast_server import FeastServer
from tests.kits.oidc_issuer import Issuer, rsa_key

NOW = datetime.now(UTC)
OWNERSHIP = PROJECT_ROOT / "docs" / "ownership.md"
CUSTOMER_FEATURES = ["customers:email", "customers:home_latitude"]
PROFILE = ["account_profile:home_latitude", "account_profile:customer_segment"]
RECENT = ["account_recent:account_payment_count_1h", "account_recent:account_amount_mean_1h"]
SERVICE = "fraud_detection_v1"

# What an oversight could look like: a view whose owner forgot to say who may read it, one computed from customers, and
# a service.
FORGOTTEN = """
from datetime import timedelta
from feast import FeatureService, FeatureView, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String
from entities import account
from sources import customers_log
from views.customers import customers

forgotten = FeatureView(
    name="forgotten", entities=[account], source=customers_log, schema=[Field(name="phone", dtype=String)], ttl=timedelta(0)
)


@on_demand_feature_view(sources=[customers], schema=[Field(name="email_known", dtype=Int64)], mode="python")
def peek(inputs):
    return {"email_known": [int(email is not None) for email in inputs["email"]]}
"""


class World:
    """One repo applied, its data written by our stores and its log, served by both of Feast's servers with
    authentication on.
    """

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        self.issuer = issuer
        self.settings = RepoSettings()
        self.repo = folder / "feature_repo"
        copy_repo(self.repo)
        feast(self.settings, "apply", repo=self.repo)
        secured = config_file(self.settings, self.repo, "feature_store_secured.yaml")
        self.online = FeastServer("serve", secured, self.repo, issuer.environment, folder / "online.log")
        self.offline = FeastServer(
            "serve_offline", secured, self.repo, issuer.environment, folder / "offline.log"
        )
        self.store = open_store(self.settings, self.repo)

    def fill(self) -> None:
        """Write the data while the servers start."""
        write(self.settings, self.store)
        # The kernels are compiled and kept here; gunicorn ends a worker that compiles for longer than 30 s.
        self.store.get_online_features(RECENT, [{"account_id": "a1"}])
        rows = pd.DataFrame({"account_id": ["a1"], "event_timestamp": [NOW]})
        self.store.get_historical_features(rows, [*RECENT, *PROFILE]).to_df()
        self.online.wait()
        self.offline.wait()

    def post(self, path: str, token: str | None, **body: Any) -> requests.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return requests.post(self.online.url + path, json=body, headers=headers, timeout=120)

    def read(
        self, token: str | None, features: list[str] | None = None, query: str = "", **body: Any
    ) -> requests.Response:
        asked = {"features": features} if features else {}
        return self.post(
            f"/get-online-features{query}", token, **{"entities": {"account_id": ["a1"]}} | asked | body
        )

    def client(self, token: str) -> FeatureStore:
        """Feast as somebody uses it who has a token, and the registry, but neither Redis nor the logs."""
        auth = {"type": "oidc", "token": token}
        offline = {"type": "remote", "host": "127.0.0.1", "port": self.offline.port}
        return FeatureStore(
            config=RepoConfig(
                project="millstream",
                provider="local",
                registry=str(self.settings.registry),
                auth=auth,
                online_store={"type": "remote", "path": self.online.url},
                offline_store=offline,
                entity_key_serialization_version=3,
                repo_path=self.repo,
            )
        )


def copy_repo(to: Path) -> None:
    shutil.copytree(REPO, to, ignore=shutil.ignore_patterns("__pycache__", "windows", "stores"))
    (to / "views" / "forgotten.py").write_text(FORGOTTEN)
    services = to / "services.py"
    services.write_text(
        services.read_text()
        + "\nfrom views.forgotten import forgotten, peek\nfrom views.customers import customers\n"
        + 'all_of_it = FeatureService(name="all_of_it", features=[account_recent, customers])\n'
        + 'peeking = FeatureService(name="peeking", features=[peek])\n'
        + 'forgetful = FeatureService(name="forgetful", features=[forgotten])\n'
    )


def write(settings: RepoSettings, store: FeatureStore) -> None:
    """Customer a1 and three payments of 10, 20 and 60: in the logs, and in Redis as our stores and states keep them."""
    version = {
        "event_id": "c1", "event_timestamp": NOW - timedelta(days=9), "account_id": "a1", "deleted": False,
        "home_latitude": 47.5, "home_longitude": 8.25, "email": "e-pseudonym", "phone": "p-pseudonym",
        "segment": "premium", "opened_at": NOW - timedelta(days=99), "created_timestamp": NOW - timedelta(days=9),
        "source_partition": "0", "source_offset": 0,
    }  # fmt: skip
    (settings.log_dir / "customers").mkdir(parents=True)
    log = pa.Table.from_pylist(
        [{n: version.get(n) for n in CUSTOMERS.log_schema.names}], CUSTOMERS.log_schema
    )
    pq.write_table(log, settings.log_dir / "customers" / "part-0.parquet")
    frame = pd.DataFrame([version]).rename(
        columns={"segment": "customer_segment", "opened_at": "customer_opened_at"}
    )
    for view in ("customers", "account_profile", "forgotten"):
        store.write_to_online_store(view, frame)
    rows = [
        {
            "event_id": f"p{n}", "event_timestamp": NOW - timedelta(minutes=20 - n), "account_id": "a1",
            "merchant_id": "m1", "type": "PAYMENT", "amount": amount, "currency": "EUR",
        }
        for n, amount in enumerate((10.0, 20.0, 60.0))
    ]  # fmt: skip
    payments = pa.Table.from_pylist(rows, PAYMENTS.schema)
    log_payments(settings, payments)
    views = read_views(settings.home / "views.json")
    specs = tuple(s for s in views.entities("payments")[("account_id",)] if s.name == "account_recent")
    index, state, block = KeyIndex(), ViewState(specs[0]), BlockColumns(payments)
    state.fold(index.slots(block.keys(("account_id",))), block.events(specs[0]))
    client = redis.Redis.from_url(settings.redis_url)
    EntityProjection(client, views.project, specs).write(index, [state], np.arange(1))


@pytest.fixture(scope="module")
def world(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("permissions")
    patch = pytest.MonkeyPatch()
    patch.setenv("MILLSTREAM_HOME", str(folder / "home"))
    patch.setenv("MILLSTREAM_PSEUDONYM_KEY", "off")
    patch.setenv("REDIS_URL", redis_url)
    redis.Redis.from_url(redis_url).flushall()
    with Issuer() as issuer:
        made = World(folder, issuer)
        with made.online, made.offline:
            made.fill()
            yield made
    patch.undo()


def values(response: requests.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body = response.json()
    columns = [r["values"][0] for r in body["results"]]
    return dict(zip(body["metadata"]["feature_names"], columns, strict=True))


def refused(response: requests.Response, because: str) -> None:
    assert response.status_code == 403, response.text
    assert because in response.text


def test_owner_of_customers_reads_them(world: World) -> None:
    got = values(world.read(world.issuer.token("customers_owner"), CUSTOMER_FEATURES))
    assert (got["email"], got["home_latitude"]) == ("e-pseudonym", 47.5)


def test_modelling_is_refused_customers_and_told_which_role_it_takes(world: World) -> None:
    for features in (CUSTOMER_FEATURES, [*PROFILE, "customers:email"]):
        refused(
            world.read(world.issuer.token("modelling"), features),
            "to FeatureView:customers: Requires roles ['customers_owner']",
        )


def test_modelling_reads_the_enriched_views_plain_and_windowed(world: World) -> None:
    got = values(world.read(world.issuer.token("modelling"), [*PROFILE, *RECENT]))
    assert (got["home_latitude"], got["customer_segment"]) == (47.5, "premium")
    assert (got["account_payment_count_1h"], got["account_amount_mean_1h"]) == (3, 30.0)


def payment_asked(world: World, moment: Any) -> dict[str, list[Any]]:
    """Keys of a payment and every column that some on-demand view wants of the request."""
    asked = {"account_id": ["a1"], "merchant_id": ["m1"], "device_id": ["d1"], "payment_id": ["p9"]}
    for view in world.store.list_on_demand_feature_views():
        for source in view.source_request_sources.values():
            for field in source.schema:
                example = {Float64: 12.5, Int64: 1, UnixTimestamp: moment}.get(field.dtype, "PAYMENT")
                asked[field.name] = [example]
    return asked


def test_modelling_reads_a_feature_service_with_a_request_in_json(world: World) -> None:
    asked = payment_asked(world, NOW.isoformat())
    got = values(world.read(world.issuer.token("modelling"), feature_service=SERVICE, entities=asked))
    assert (got["account_payment_count_1h"], got["payment_amount"]) == (3, 12.5)


def test_the_owner_of_one_view_may_not_read_all_others(world: World) -> None:
    owner = world.issuer.token("customers_owner")
    refused(world.read(owner, RECENT), "Requires roles ['modelling']")
    assert values(world.read(owner, PROFILE))["customer_segment"] == "premium"  # it is theirs as well
    assert values(
        world.read(world.issuer.token("customers_owner", "modelling"), [*CUSTOMER_FEATURES, *RECENT])
    )


@pytest.mark.parametrize("roles", [("customers_owners",), ("CUSTOMERS_OWNER",), ("admin",), ()])
def test_a_role_of_another_name_reads_nothing(world: World, roles: tuple[str, ...]) -> None:
    for features in (CUSTOMER_FEATURES, PROFILE, RECENT):
        refused(world.read(world.issuer.token(*roles), features), "Requires roles")


def test_an_unknown_caller_is_refused(world: World) -> None:
    issuer, now = world.issuer, int(time.time())
    unsigned = issuer.token("customers_owner").rsplit(".", 1)[0] + "."
    for name, token in {
        "no token": None,
        "no token at all": "not-a-token",
        "expired": issuer.token("customers_owner", iat=now - 900, exp=now - 300),
        "signed with another key": issuer.token("customers_owner", key=rsa_key()),
        "not signed": unsigned,
        "of another issuer": issuer.token("customers_owner", iss="https://somebody.else"),
        "for another program": issuer.token("customers_owner", aud="somebody-else"),
    }.items():
        response = world.read(token, CUSTOMER_FEATURES)
        assert response.status_code == 401, name
        assert "e-pseudonym" not in response.text


def test_another_project_in_the_query_lends_no_rights(world: World) -> None:
    for role in ("modelling", "somebody"):
        refused(
            world.read(world.issuer.token(role), CUSTOMER_FEATURES, "?project=none-such"), "Requires roles"
        )


def test_what_is_computed_from_customers_is_refused_by_view_and_by_service(world: World) -> None:
    modelling = world.issuer.token("modelling")
    refused(world.read(modelling, ["peek:email_known"]), "FeatureView:customers: Requires roles")
    for service in ("all_of_it", "peeking"):
        refused(world.read(modelling, feature_service=service), f"FeatureService'>/{service}")


def test_a_new_view_is_readable_by_nobody_until_it_says_by_whom(world: World) -> None:
    for role in ("modelling", "customers_owner"):
        token = world.issuer.token(role)
        refused(world.read(token, ["forgotten:phone"]), "No permissions defined")
        refused(world.read(token, feature_service="forgetful"), "No permissions defined")


def test_modelling_writes_nothing(world: World) -> None:
    modelling, row = world.issuer.token("modelling"), {"account_id": ["a1"]}
    for path, body in {
        "/push": {"push_source_name": "payments", "df": row},
        "/write-to-online-store": {"feature_view_name": "account_profile", "df": row},
        "/materialize": {"start_ts": "2026-01-01", "end_ts": "2026-01-02"},
        "/materialize-incremental": {"end_ts": "2026-01-02", "feature_views": ["account_profile"]},
    }.items():
        assert world.post(path, modelling, **body).status_code == 403, path


def test_feasts_own_client_with_a_token_reads_as_usual(world: World) -> None:
    client, row = world.client(world.issuer.token("modelling")), [{"account_id": "a1"}]
    got = client.get_online_features([*PROFILE, *RECENT], row).to_dict()
    assert (got["customer_segment"], got["account_amount_mean_1h"]) == (["premium"], [30.0])
    with pytest.raises(FeastPermissionError, match="FeatureView:customers: Requires roles"):
        client.get_online_features(CUSTOMER_FEATURES, row)


def test_modelling_reads_a_training_set_and_is_refused_customers_in_it(world: World) -> None:
    client = world.client(world.issuer.token("modelling"))
    rows = pd.DataFrame({"account_id": ["a1", "nobody"], "event_timestamp": [NOW, NOW]})
    got = client.get_historical_features(rows, [*PROFILE, *RECENT]).to_df()
    assert list(got["account_amount_mean_1h"].fillna(-1)) == [30.0, -1]
    assert got["customer_segment"][0] == "premium"
    with pytest.raises(FeastPermissionError, match="FeatureView:customers: Requires roles"):
        client.get_historical_features(rows, [*RECENT, *CUSTOMER_FEATURES]).to_df()
    asked = pd.DataFrame(payment_asked(world, NOW))
    service = client.get_feature_service(SERVICE)
    served = client.get_historical_features(asked, service).to_df()
    here = world.store.get_historical_features(asked, world.store.get_feature_service(SERVICE)).to_df()
    pd.testing.assert_frame_equal(served[sorted(served)], here[sorted(here)], check_dtype=False)
    owner = world.client(world.issuer.token("customers_owner"))
    assert owner.get_historical_features(rows, CUSTOMER_FEATURES).to_df()["email"][0] == "e-pseudonym"


def test_a_training_set_takes_a_known_caller_and_no_sql_over_the_logs(world: World) -> None:
    rows = pd.DataFrame({"account_id": ["a1"], "event_timestamp": [NOW]})
    forged = world.client(world.issuer.token("modelling", key=rsa_key()))
    with pytest.raises(Exception, match=r"(?i)token|auth"):
        forged.get_historical_features(rows, PROFILE).to_df()
    sql = "SELECT account_id, email, event_timestamp FROM customers"
    with pytest.raises(Exception, match="takes no SQL"):
        world.client(world.issuer.token("modelling")).get_historical_features(sql, RECENT).to_df()


def test_feast_lists_the_permissions(world: World) -> None:
    words = ["-f", str(config_file(world.settings, world.repo)), "permissions", "list"]
    listing = CliRunner().invoke(cli, words, catch_exceptions=False).output
    for word in (
        "customers_owner",
        "modelling_reads_anonymous",
        "account_recent",
        "READ_ONLINE",
        "modelling",
    ):
        assert word in listing


def test_every_view_says_who_may_read_it_and_no_role_may_do_more(world: World) -> None:
    views = [v for v in world.store.list_all_feature_views() if v.name not in {"forgotten", "peek"}]
    services = [s for s in world.store.list_feature_services() if s.name.startswith("fraud_detection")]
    permissions = world.store.registry.list_permissions("millstream")

    def may(role: str, thing: Any, action: AuthzedAction) -> bool:
        try:
            return bool(enforce_policy(permissions, User("u", [role]), [thing], [action]))
        except FeastPermissionError:
            return False

    for view in views:
        if hasattr(view, "source_request_sources"):  # on demand: as what it reads
            continue
        assert view.tags.get("access") in {"anonymous", "owner"}, f"{view.name} does not say who may read it"
        for action in ALL_ACTIONS:
            theirs = view.owner == "customers"
            assert may("customers_owner", view, action) == theirs, (view.name, action)
            allowed = view.tags["access"] == "anonymous" and action in {*READ, AuthzedAction.DESCRIBE}
            assert may("modelling", view, action) == allowed, (view.name, action)
    assert services
    for thing in (*services, *world.store.list_on_demand_feature_views()):
        assert may("modelling", thing, AuthzedAction.READ_ONLINE) == (thing.name != "peek"), thing.name
    for source in world.store.list_data_sources():
        assert not any(may("modelling", source, action) for action in ALL_ACTIONS)
    assert may("customers_owner", world.store.get_data_source("customers_log"), AuthzedAction.READ_OFFLINE)
    assert not may("customers_owner", world.store.get_data_source("payments_log"), AuthzedAction.READ_OFFLINE)


def test_where_there_are_no_permissions_nothing_is_allowed(world: World) -> None:
    view = world.store.get_feature_view("account_profile")
    with pytest.raises(FeastPermissionError, match="has no permissions, so nothing is allowed"):
        security_manager.enforce_policy([], User("u", ["modelling"]), [view], [AuthzedAction.READ_ONLINE])


def test_feasts_permissions_by_tag_would_match_every_view(world: World) -> None:
    """Why `permissions.py` names views; when this fails, Feast has mended it, and the names can go."""
    by_tag = Permission(
        name="by_tag", policy=RoleBasedPolicy(roles=["modelling"]), required_tags={"access": "anonymous"}
    )
    assert by_tag.match_resource(world.store.get_feature_view("customers"))


def test_docs_name_what_the_secured_store_reads_from_the_environment() -> None:
    text = (REPO / "feature_store_secured.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)\}", text))
    with Issuer() as issuer:
        assert wanted == set(issuer.environment)
        assert wanted == set(re.findall(r"^\| `(OIDC_\w+)`", OWNERSHIP.read_text(), re.MULTILINE))
