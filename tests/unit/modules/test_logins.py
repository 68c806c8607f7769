# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins, made in real databases and a real object store by their own clients when Secrets of them are put."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import time

import boto3
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database as databases
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, logins, manifests
from botocore.exceptions import ClientError
from conftest import BIN, answers, has_bucket, new_mariadb, new_postgresql, new_seaweedfs, running
from test_actions import LocalEngine

ROOT = "Root's"
NAME = "sound-monitoring-database"


class World(LocalEngine):
    """Keeps objects in a dictionary; its pods are processes of this machine."""

    def __init__(self, **environment):
        super().__init__(**environment)
        self.scope, self.objects = engines.Scope("team", "sound"), {}

    def read(self, refs, kinds):
        return dict(self.objects)

    def put(self, objects, live, dry_run):
        result = {}
        for obj in objects:
            after = json.loads(json.dumps(obj))
            after["metadata"]["uid"] = "2b41ffb1"
            result[manifests.Ref.of(obj)] = engines.Put(after)
            if not dry_run:
                self.objects[manifests.Ref.of(obj)] = after
        return result

    def delete(self, objects, deadline):
        for obj in objects:
            del self.objects[manifests.Ref.of(obj)]


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def database(request, tmp_path_factory):
    """Environment of a client in the pod of a database, and options of a client elsewhere."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "postgresql":
        command, options, client = new_postgresql(folder)
        # The socket of this one asks for a password.
        environment = {"PGHOST": str(folder), "PGPASSWORD": client["password"]}
        owner = client
    else:
        # As the role runs it: hosts have no names.
        command, options, client = new_mariadb(folder, "--skip-name-resolve")
        with (folder / "init.sql").open("a") as file:
            file.write("ALTER USER root@localhost IDENTIFIED BY 'Root''s';\nCREATE DATABASE IF NOT EXISTS other;\n"
                       "CREATE USER IF NOT EXISTS mlflow@'%' IDENTIFIED BY 'right';\nGRANT ALL ON mlflow.* TO "
                       "mlflow@'%';\n")
        # The client of the pod finds its socket by itself.
        wrapper = folder / "bin/mariadb"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("mariadb")} --no-defaults --socket={folder}/s "$@"\n')
        wrapper.chmod(0o755)
        environment = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}", "MARIADB_ROOT_PASSWORD": ROOT}
        owner = client
    with running(command, answers(client["port"]), folder / "log", **options):
        opened = databases.database_of(owner)
        opened.connect()
        opened.query("CREATE TABLE runs (name varchar(9))")
        yield environment, client, folder / "log"


def secret(client, **more):
    given = {"service": "sound-database", "dialect": client["dialect"], "port": client["port"],
             "database": client["database"], "owner": "mlflow", **more}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME, "annotations": {
        manifests.GENERATE: f"username={logins.READER},password", manifests.DATABASE_LOGIN: json.dumps(given)}}}


def apply(world, *objects, **options):
    desired = manifests.load(json.loads(json.dumps(objects)))
    manifests.label(desired, world.scope.labels("monitoring"))
    return engines.converge(world, [desired], **{"dry_run": False, "wait": True, "timeout": 30, **options})


def values(world):
    (obj,) = world.objects.values()
    return {key: base64.b64decode(value).decode() for key, value in obj["data"].items()}


def opened(client, world):
    given = values(world)
    reader = databases.database_of({**client, "user": given["username"], "password": given["password"]})
    reader.connect()
    return reader


def test_a_login_is_made_with_its_secret_and_goes_with_it(database):
    environment, client, log = database
    world = World(**environment)
    assert apply(world, secret(client), dry_run=True).changed and not world.ran
    assert apply(world, secret(client)).changed
    reader = opened(client, world)
    assert values(world)["username"] == "mlflow_exporter" and reader.query("SELECT count(*) FROM runs")[0][0] == 0
    for statement in ("INSERT INTO runs VALUES ('x')", "CREATE TABLE more (name int)", "DROP TABLE runs"):
        with pytest.raises(Exception, match="(?i)denied|read-only"):
            reader.query(statement)
    again = apply(world, secret(client))
    assert not again.changed and not again.warnings
    assert not [argv for _service, argv, _text in world.ran if values(world)["password"] in " ".join(argv)]
    assert values(world)["password"] not in log.read_text()
    apply(world)
    with pytest.raises(Exception, match="(?i)denied|does not exist|authentication failed"):
        databases.database_of({**client, "user": "mlflow_exporter", "password": "x"}).connect()
    assert not world.objects
    with contextlib.suppress(Exception):  # its connection has been ended, or may at least not be opened again
        reader.query("SELECT 1")
        assert client["dialect"] == "mysql"


def test_what_somebody_changed_is_made_anew(database):
    environment, client, _log = database
    world = World(**environment)
    apply(world, secret(client))
    logins.drop(world.execute, next(iter(world.objects.values())))
    assert apply(world, secret(client)).changed
    opened(client, world)
    # Another password in the Secret, as after it was deleted by hand.
    world.objects.clear()
    apply(world, secret(client))
    opened(client, world)
    assert not apply(world, secret(client)).changed
    if client["dialect"] == "mysql":
        assert apply(world, secret(client, process=True)).changed
        opened(client, world).query("SHOW ENGINE INNODB STATUS")
        assert not apply(world, secret(client, process=True)).changed
        apply(world, secret(client))
        with pytest.raises(Exception, match="(?i)denied"):
            opened(client, world).query("SHOW ENGINE INNODB STATUS")


def test_a_connection_limit(database):
    environment, client, _log = database
    world = World(**environment)
    apply(world, secret(client))
    held = [opened(client, world) for _number in range(5)]
    with pytest.raises(Exception, match="(?i)too many|max_user_connections"):
        opened(client, world)
    assert len(held) == 5


def test_rotating_leaves_it(database):
    environment, client, _log = database
    world = World(**environment)
    apply(world, secret(client))

    def run(argv, statements):
        return world.execute("sound-database", argv, statements)

    login = logins.DIALECTS[client["dialect"]](run, client["database"], "mlflow", client["port"])
    login.create("mlflow_2", "long")
    login.create("mlflow_3", "long")
    assert login.others("mlflow_3") == ["mlflow_2"]
    for name in ("mlflow_2", "mlflow_3"):
        login.run(f"DROP USER {name};")


def test_a_database_that_does_not_answer_is_a_warning():
    world = World()
    client = {"dialect": "postgresql", "port": 1, "database": "mlflow"}
    outcome = apply(world, secret(client))
    assert outcome.changed and "was not made: " in outcome.warnings[0]
    removed = engines.remove(world, False, purge=False, timeout=5)
    assert "was not dropped: " in removed.warnings[-1] and not world.objects


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Environment of a shell in the pod of SeaweedFS, and options of a client elsewhere."""
    folder = tmp_path_factory.mktemp("weed")
    command, options, client = new_seaweedfs(folder)
    given = dict(str(argument).split("=", 1) for argument in command if "=" in str(argument))
    master = f"{given['-master.port']}.{given['-master.port.grpc']}"
    wrapper = folder / "bin/weed"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\n[ "$2" = -master=127.0.0.1:9333 ] && exec {BIN}/weed shell '
                       f'-master=127.0.0.1:{master}')
    wrapper.chmod(0o755)
    with running(command, lambda: has_bucket(client["url"]), folder / "log", **options):
        yield {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}, client


def user_of_store(name, access, *buckets):
    given = {"service": "sound-object-storage", "name": name, "access": access, "buckets": buckets}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"sound-{name}", "annotations": {
        manifests.GENERATE: "AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY", manifests.STORE_USER: json.dumps(given)}}}


def refused_to(client, keys, bucket):
    """What a user of the store may not do in a bucket, with the reason."""
    opened_store = boto3.client("s3", endpoint_url=client["url"], region_name="us-east-1",
                                aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                                aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"])
    found = {}
    for method, more in (("list_objects_v2", {}), ("get_object", {"Key": "kept"}),
                         ("put_object", {"Key": "new", "Body": b"x"}), ("delete_object", {"Key": "new"})):
        try:
            getattr(opened_store, method)(Bucket=bucket, **more)
        except ClientError as error:
            found[method] = error.response["Error"]["Code"]
    return found


def refused_everything(client, keys, bucket, code):
    return set(refused_to(client, keys, bucket).values()) == {code}


def soon(check, *arguments):
    """Whether it is so within some seconds: the store tells its parts of a change of users."""
    for _attempt in range(50):
        if check(*arguments):
            return True
        time.sleep(0.2)
    return False


def test_a_user_of_the_object_store_is_made_with_its_secret_and_goes_with_it(store):
    environment, client = store
    admin = boto3.client("s3", endpoint_url=client["url"], region_name="us-east-1",
                         aws_access_key_id=client["access_key"], aws_secret_access_key=client["secret_key"])
    admin.create_bucket(Bucket="raw-data")
    for bucket in ("mlflow", "raw-data"):
        admin.put_object(Bucket=bucket, Key="kept", Body=b"x")
    world = World(**environment)
    wanted = [user_of_store("reader", "read", "mlflow"), user_of_store("writer", "write", "mlflow", "raw-data")]
    assert apply(world, *wanted, dry_run=True).changed and not world.ran
    assert apply(world, *wanted).changed
    again = apply(world, *wanted)
    assert not again.changed and not again.warnings
    keys = {ref.name: {key: base64.b64decode(value).decode() for key, value in obj["data"].items()}
            for ref, obj in world.objects.items()}
    assert not [argv for _service, argv, _text in world.ran
                if any(value in " ".join(argv) for found in keys.values() for value in found.values())]
    reader, writer = keys["sound-reader"], keys["sound-writer"]

    def reads(bucket):
        return refused_to(client, reader, bucket) == {"put_object": "AccessDenied", "delete_object": "AccessDenied"}

    assert soon(reads, "mlflow") and refused_everything(client, reader, "raw-data", "AccessDenied")
    assert soon(lambda: not refused_to(client, writer, "mlflow")) and not refused_to(client, writer, "raw-data")
    # Another bucket instead; the other user is left out.
    assert apply(world, user_of_store("reader", "read", "raw-data")).changed
    assert soon(reads, "raw-data") and refused_everything(client, reader, "mlflow", "AccessDenied")
    assert soon(refused_everything, client, writer, "mlflow", "InvalidAccessKeyId")
    apply(world)
    assert soon(refused_everything, client, reader, "raw-data", "InvalidAccessKeyId")
    admin.get_object(Bucket="mlflow", Key="kept")
