# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of versions share."""

from __future__ import annotations

import pathlib
import shutil

import boto3
import pymysql
import pytest
from mlflow_servers import VERSIONS, config, unit

postgresql, mariadb, moto = unit.postgresql, unit.mariadb, unit.moto


@pytest.fixture(scope="session", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="session")
def newest():
    return VERSIONS[-1]


@pytest.fixture(params=["sqlite", "mariadb"])
def other_database(request, tmp_path):
    """URI of a database that is no PostgreSQL, for programs whose folder is that of the test."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mlflow.db"
    # The versions' environments have no driver of MariaDB; this one is of Python alone.
    shutil.copytree(pathlib.Path(pymysql.__file__).parent, config(tmp_path) / "pymysql")
    return "mysql+pymysql://{user}:{password}@{host}:{port}/{database}".format(**request.getfixturevalue("mariadb"))


@pytest.fixture(scope="session")
def bucket(moto):
    """Environment of a server whose artifacts are in S3."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    ).create_bucket(Bucket="mlflow")
    return {**keys, "MLFLOW_S3_ENDPOINT_URL": moto, "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/artifacts"}
