# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows from one kind of database to another, on real servers, and artifacts to another kind of store."""

from __future__ import annotations

import instances
import pytest
import rows
import sqlalchemy


def emptied(instance, name: str, client: dict, pods):
    """An instance on a new, empty database, with the backups of another one."""
    rows.administer(client, f"CREATE DATABASE {name}")
    url = sqlalchemy.engine.make_url(instance.uri if instance.dialect == client["dialect"] else rows.uri_of(client))
    if client["dialect"] == "postgresql":
        url = url.set(username=None, password=None)
    login = {"user": client["user"], "password": client["password"]}
    return instances.Instance(pods, url.set(database=name).render_as_string(hide_password=False), instance.artifacts,
                              instance.store, login)


def migrate(source, target) -> None:
    """What the playbook does, the server being closed."""
    source.run("create", "--kind=before-migration", "--portable")
    target.restore("--empty")


def test_sqlite_to_postgresql(sqlite, postgresql, pods, execute, tmp_path):
    before = {**rows.digest(sqlite.uri), **rows.digest(f"sqlite:///{tmp_path}/data/users.db")}
    target = emptied(sqlite, "from_sqlite", postgresql, pods)
    migrate(sqlite, target)
    assert rows.digest(target.uri, target.login) == before
    assert rows.digest(sqlite.uri).items() <= before.items()  # the old one stays
    # Numbers go on after the highest; without that the next experiment would have one that there is.
    number = "INSERT INTO experiments (name, lifecycle_stage, workspace) VALUES ('next', 'active', 'default') RETURNING"
    ((highest,),) = execute(target, "SELECT MAX(experiment_id) FROM experiments")
    assert execute(target, f"{number} experiment_id") == [(highest + 1,)]

    with pytest.raises(instances.CommandFailed, match=r"from_sqlite is not empty \(4 experiments, .*5 runs"):
        target.restore("--empty")


def test_stores_are_looked_at_before_a_migration(sqlite, postgresql, mariadb, seaweedfs, pods, execute):
    def failed(sentence):
        return pytest.raises(instances.CommandFailed, match=sentence)

    for client in (postgresql, mariadb):
        name = f"looked_at_{client['dialect']}"
        target = emptied(sqlite, name, client, pods)
        assert target.run("target", "--stores=database") == {}
        # Nothing is left of it, and a database that migrations may have filled is empty as well.
        with failed(f"There is no database {name}_restore"):
            target.run("promote")
        execute(target, "CREATE TABLE experiments (name VARCHAR(50))")
        execute(target, "INSERT INTO experiments VALUES ('Default')")
        assert target.run("target", "--stores=database", "--dry-run") == {}
        execute(target, "INSERT INTO experiments VALUES ('of users')")
        with failed(rf"The database {name} is not empty \(2 experiments\)"):
            target.run("target", "--stores=database", "--dry-run")
        url = sqlalchemy.engine.make_url(target.uri)
        target.uri = url.set(port=9).render_as_string(hide_password=False)
        with failed("The database answers: .*([Cc]onnection refused|Can't connect)"):
            target.run("target", "--stores=database,artifacts")
    sqlite.artifacts = "s3://absent/here"
    sqlite.more |= {"MLFLOW_S3_ENDPOINT_URL": seaweedfs["url"], "AWS_ACCESS_KEY_ID": seaweedfs["access_key"],
                    "AWS_SECRET_ACCESS_KEY": seaweedfs["secret_key"], "AWS_DEFAULT_REGION": "us-east-1"}
    with failed("bucket absent does not exist at http"):
        sqlite.run("target", "--stores=artifacts")
    assert sqlite.run("target", "--stores=artifacts", "--create-bucket") == {}
    sqlite.more["AWS_SECRET_ACCESS_KEY"] = "wrong"
    with failed("access to bucket absent is denied with these credentials"):
        sqlite.run("target", "--stores=artifacts", "--create-bucket")


def test_mariadb_to_postgresql(on_mariadb, postgresql, pods):
    before = rows.digest(on_mariadb.uri)
    target = emptied(on_mariadb, "from_mariadb", postgresql, pods)
    migrate(on_mariadb, target)
    assert rows.digest(target.uri, target.login) == before


def test_sqlite_to_mariadb(sqlite, mariadb, pods, execute):
    before = rows.digest(sqlite.uri)
    (sqlite.path("..") / "x").parent.mkdir(parents=True, exist_ok=True)
    sqlite.more.pop("MLFLOW_AUTH_CONFIG_PATH")  # MariaDB cannot hold users
    target = emptied(sqlite, "from_sqlite", mariadb, pods)
    migrate(sqlite, target)
    assert rows.digest(target.uri) == before
    assert execute(target, "SELECT experiment_id FROM experiments WHERE name = 'Default'") == [(0,)]
    rows.administer(mariadb, "DROP DATABASE from_sqlite")


def test_from_a_folder_to_a_bucket_and_back(sqlite, seaweedfs, execute, tmp_path):
    sqlite.create()
    old = sqlite.artifacts
    execute(sqlite, f"UPDATE runs SET artifact_uri = '{old}/1/run/artifacts' WHERE name = 'run 0'")
    execute(sqlite, f"UPDATE runs SET artifact_uri = 'file://{old}er/1' WHERE name = 'run 2'")
    manifest = sqlite.create()
    sqlite.artifacts = "s3://mlflow/moved"
    sqlite.more |= {"MLFLOW_S3_ENDPOINT_URL": seaweedfs["url"], "AWS_ACCESS_KEY_ID": seaweedfs["access_key"],
                    "AWS_SECRET_ACCESS_KEY": seaweedfs["secret_key"], "AWS_DEFAULT_REGION": "us-east-1"}
    found = sqlite.restore(f"--set={manifest['id']}")
    assert found["artifacts"] == {"count": 3, "written": 3, "kept": 0, "others": 0}
    uris = dict(execute(sqlite, "SELECT name, artifact_uri FROM runs"))
    assert uris["run 0"] == "s3://mlflow/moved/1/run/artifacts"
    assert uris["run 2"] == f"file://{old}er/1"  # another folder
    assert uris["run 1"].startswith("mlflow-artifacts:")

    back = sqlite.create()
    assert back["artifacts"]["count"] == 3
    sqlite.artifacts = str(tmp_path / "again")
    (tmp_path / "again").mkdir()
    assert sqlite.restore(f"--set={back['id']}")["artifacts"]["written"] == 3
    for name, content in rows.ARTIFACTS.items():
        assert (tmp_path / "again" / name).read_bytes() == content
    uris = dict(execute(sqlite, "SELECT name, artifact_uri FROM runs"))
    assert uris["run 0"] == "mlflow-artifacts:/1/run/artifacts"
