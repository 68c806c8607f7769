# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of versions share."""

from __future__ import annotations

import boto3
import pytest
from mlflow_servers import VERSIONS, unit

postgresql, moto = unit.postgresql, unit.moto


@pytest.fixture(scope="session", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="session")
def newest():
    return VERSIONS[-1]


@pytest.fixture(scope="session")
def bucket(moto):
    """Environment of a server whose artifacts are in S3."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    ).create_bucket(Bucket="mlflow")
    return {**keys, "MLFLOW_S3_ENDPOINT_URL": moto, "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/artifacts"}
