# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""mlflow_user and mlflow_permission, run as Ansible runs them, against a real server with users."""

from __future__ import annotations

import contextlib
import io
import json
import re
import uuid

import mlflow
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mlops.mlflow.plugins.module_utils import checks, mlflow_api
from ansible_collections.mlops.mlflow.plugins.modules import mlflow_permission, mlflow_user, mlflow_version_info

PASSWORD = "a-password-of-its-own"
PARAMS = {"path_prefix": "", "token": None, "ca_file": None, "validate_certs": True, "timeout": 10}


def run(module, **options):
    """What a module returns, failed or not; an option that is None is left out."""
    said = io.StringIO()
    with patch_module_args({key: value for key,
                            value in options.items()
                            if value is not None}), contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        module.main()
    return json.loads(said.getvalue())


@pytest.fixture
def login(mlflow_auth_server):
    return mlflow_auth_server


@pytest.fixture
def server(login):
    """The server itself, for its administrator, past the modules."""
    return mlflow_api.Server(login["url"], PARAMS, login["login_username"], login["login_password"])


@pytest.fixture
def user(login):
    """Runs mlflow_user."""
    return lambda **options: run(mlflow_user, **{**login, **options})


@pytest.fixture
def permission(login):
    """Runs mlflow_permission."""
    return lambda **options: run(mlflow_permission, **{**login, **options})


@pytest.fixture
def name():
    return f"n{uuid.uuid4().hex[:10]}"


@pytest.fixture
def somebody(user, name):
    """Name of a user with PASSWORD and no permission of its own."""
    assert user(username=name, password=PASSWORD)["changed"]
    return name


@pytest.fixture
def client(login, monkeypatch):
    """MLflow's own client for a user."""
    def of(username, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", username)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return mlflow.MlflowClient(login["url"], login["url"])
    return of


def status(server, username, password):
    """HTTP status of a login."""
    try:
        server.log_in_as(username, password).call("/api/2.0/mlflow/users/current")
    except mlflow_api.ApiError as error:
        return error.status
    return 200


def refused(call):
    with pytest.raises(mlflow.MlflowException, match="403|Permission denied"):
        call()


# Users

def test_a_user_is_made_once(user, server, name):
    made = user(username=name, password=PASSWORD)
    assert made["changed"] and made["user"]["username"] == name and made["user"]["is_admin"] is False
    assert status(server, name, PASSWORD) == 200
    again = user(username=name, password=PASSWORD)
    assert again["changed"] is False and again["user"] == made["user"]


def test_a_password_is_changed_only_when_it_is_to_be(user, server, somebody):
    assert user(username=somebody, password="quite-another-one")["changed"] is False
    assert status(server, somebody, PASSWORD) == 200
    changed = user(username=somebody, password="quite-another-one", update_password="always", _ansible_diff=True)
    assert changed["changed"] and changed["password_changed"]
    assert "quite-another-one" not in json.dumps(changed["diff"])
    assert changed["diff"]["before"] != changed["diff"]["after"]
    assert (status(server, somebody, PASSWORD), status(server, somebody, "quite-another-one")) == (401, 200)
    again = user(username=somebody, password="quite-another-one", update_password="always")
    assert not again["changed"] and not again["password_changed"]


def test_the_admin_flag(user, server, name):
    assert user(username=name, password=PASSWORD, admin=True)["user"]["is_admin"]
    assert mlflow_api.find_user(server, name)["is_admin"]
    assert user(username=name)["changed"] is False
    taken = user(username=name, admin=False)
    assert taken["changed"] and not mlflow_api.find_user(server, name)["is_admin"]
    assert user(username=name, admin=False)["changed"] is False


def test_a_user_is_removed_once(user, server, somebody):
    assert user(username=somebody, state="absent")["changed"]
    assert mlflow_api.find_user(server, somebody) is None
    assert user(username=somebody, state="absent")["changed"] is False


def test_who_came_through_a_proxy_may_have_any_name(user, server, name):
    """Nobody logs in by it and a password, but an administrator has to do with it."""
    name = f"system:serviceaccount:m\u00fcnchen:{name}"
    server.call("/api/2.0/mlflow/users/create", {"username": name, "password": PASSWORD})
    assert user(username=name, admin=True)["user"]["is_admin"]
    assert user(username=name, state="absent")["changed"]
    assert mlflow_api.find_user(server, name) is None


def test_check_mode_changes_no_user(user, server, somebody):
    new = user(username=somebody + "x", password=PASSWORD, admin=True, _ansible_check_mode=True)
    assert new["changed"] and new["user"] == {"id": None, "username": somebody + "x", "is_admin": True}
    assert mlflow_api.find_user(server, somebody + "x") is None
    before = mlflow_api.find_user(server, somebody)
    changed = user(username=somebody, password="quite-another-one", update_password="always", admin=True,
                   _ansible_check_mode=True)
    assert changed["changed"] and changed["password_changed"] and changed["user"]["is_admin"]
    assert user(username=somebody, state="absent", _ansible_check_mode=True)["changed"]
    assert mlflow_api.find_user(server, somebody) == before and status(server, somebody, PASSWORD) == 200


def test_an_administrator_changes_its_own_password(user, login, server, name):
    assert user(username=name, password=PASSWORD, admin=True)["changed"]
    options = {"url": login["url"], "login_username": name, "login_password": PASSWORD, "username": name,
               "password": "quite-another-one", "update_password": "always"}
    assert run(mlflow_user, **options)["password_changed"]
    assert status(server, name, "quite-another-one") == 200
    assert run(mlflow_user, **options)["changed"] is False
    assert "refuses user" in run(mlflow_user, **{**options, "password": "neither-old-nor-new"})["msg"]


@pytest.mark.parametrize("options, words", [
    ({"username": "new", "password": "tiny"}, "password of new is too short; MLflow wants at least 12 characters."),
    ({"username": "new", "password": ""}, "password of new is empty; MLflow wants at least 12 characters."),
    ({"username": "new", "password": "pässword-of-new"}, "outside ASCII"),
    ({"username": "new"}, "User new does not exist yet, and password is empty; a new user needs one."),
    ({"username": "a:b", "password": PASSWORD}, "username 'a:b' cannot log in"),
    ({"username": "", "password": PASSWORD}, "username '' cannot log in"),
    ({"username": "chief", "state": "absent"},
     "User chief is the one that this task logs in as; log in as another administrator to remove it."),
    ({"username": "chief", "admin": False}, "it stays an administrator"),
    ({"username": "new", "login_password": "wrong"},
     "refuses user chief (401); login_username and login_password must be an administrator's."),
    ({"username": "new", "login_username": None, "login_password": None}, "refuses this login (401)"),
    ({"username": "new", "path_prefix": "/elsewhere"}, "has no users (404)"),
    ({"username": "new", "url": "http://127.0.0.1:9"},
     "http://127.0.0.1:9/api/2.0/mlflow/users/current does not answer: "),
    ({"username": "new", "url": "mlflow.example.com"}, "does not answer: unknown url type"),
    ({"username": "new", "url": None}, "url is empty while engine is none; name the URL of the server."),
])
def test_what_is_wrong_with_a_user_is_said(user, options, words):
    failed = user(**options)
    assert failed.get("failed") and words in failed["msg"], failed
    assert failed["msg"].count(". ") == 0 and "\n" not in failed["msg"]


def test_a_server_without_users_says_so(mlflow_server):
    failed = run(mlflow_user, url=mlflow_server[0], login_username="chief", login_password="any", username="new",
                 password=PASSWORD)
    assert failed["msg"] == (f"{mlflow_server[0]} has no users (404); start the server with --app-name basic-auth, "
                             f"or correct path_prefix.")


def test_who_is_no_administrator_is_told(login, somebody):
    options = {"url": login["url"], "login_username": somebody, "login_password": PASSWORD, "username": "new"}
    for module, more in ((mlflow_user, {"password": "quite-another-one"}),
                         (mlflow_permission, {"experiment": "Default", "permission": "READ"})):
        assert f"User {somebody} is no administrator of" in run(module, **options, **more)["msg"]


def test_passwords_are_not_shown(user, login, name):
    made = user(username=name, password=PASSWORD, _ansible_verbosity=3)
    assert PASSWORD not in json.dumps(made) and login["login_password"] not in json.dumps(made)


# Permissions

@pytest.fixture
def experiment(client, login, name):
    """Name and number of an experiment, made by the administrator."""
    return name, client(login["login_username"], login["login_password"]).create_experiment(name)


def test_a_grant_is_made_changed_and_taken_back(permission, client, somebody, experiment):
    title, number = experiment
    theirs = client(somebody, PASSWORD)
    assert theirs.get_experiment(number).name == title  # by default_permission
    refused(lambda: theirs.create_run(number))

    made = permission(username=somebody, experiment=title, permission="EDIT", _ansible_diff=True)
    assert made["changed"] and made["grant"] == {
        "username": somebody, "resource_type": "experiment", "resource_id": number, "permission": "EDIT"}
    assert (made["diff"]["before"]["permission"], made["diff"]["after"]["permission"]) == (None, "EDIT")
    run_id = theirs.create_run(number).info.run_id
    theirs.log_metric(run_id, "accuracy", 1.0)
    assert permission(username=somebody, experiment_id=number, permission="EDIT")["changed"] is False
    refused(lambda: theirs.delete_experiment(number))

    assert permission(username=somebody, experiment=title, permission="READ")["changed"]
    refused(lambda: theirs.log_metric(run_id, "accuracy", 2.0))
    assert theirs.get_run(run_id).data.metrics == {"accuracy": 1.0}

    assert permission(username=somebody, experiment=title, permission="DENY")["changed"]
    refused(lambda: theirs.get_experiment(number))

    assert permission(username=somebody, experiment=title, state="absent")["changed"]
    assert theirs.get_experiment(number).name == title
    assert permission(username=somebody, experiment=title, state="absent")["changed"] is False


def test_a_manager_may_delete(permission, client, somebody, experiment):
    assert permission(username=somebody, experiment=experiment[0], permission="MANAGE")["changed"]
    client(somebody, PASSWORD).delete_experiment(experiment[1])
    assert "is deleted; restore it first." in permission(username=somebody, experiment_id=experiment[1],
                                                         permission="READ")["msg"]
    assert permission(username=somebody, experiment_id=experiment[1], state="absent")["changed"]


def test_a_registered_model(permission, client, login, somebody, name):
    client(login["login_username"], login["login_password"]).create_registered_model(name)
    theirs = client(somebody, PASSWORD)
    refused(lambda: theirs.update_registered_model(name, "words"))
    assert permission(username=somebody, registered_model=name, permission="EDIT")["changed"]
    assert theirs.update_registered_model(name, "words").description == "words"
    assert permission(username=somebody, registered_model=name, permission="EDIT")["changed"] is False
    assert f"Prompt {name} does not exist on {login['url']}; it is a registered model." == permission(
        username=somebody, prompt=name, permission="EDIT")["msg"]


def test_every_thing_of_a_kind(permission, client, somebody, experiment):
    theirs = client(somebody, PASSWORD)
    assert permission(username=somebody, every="experiment", permission="EDIT")["grant"]["resource_id"] == "*"
    run_id = theirs.create_run(experiment[1]).info.run_id
    assert permission(username=somebody, experiment=experiment[0], permission="DENY")["changed"]
    refused(lambda: theirs.get_experiment(experiment[1]))
    assert permission(username=somebody, experiment=experiment[0], state="absent")["changed"]
    assert permission(username=somebody, every="experiment", permission="READ")["changed"]
    refused(lambda: theirs.log_metric(run_id, "accuracy", 1.0))
    assert permission(username=somebody, every="run", permission="EDIT")["changed"]
    theirs.log_metric(run_id, "accuracy", 1.0)
    assert permission(username=somebody, every="run", permission="DENY")["changed"]
    refused(lambda: theirs.get_run(run_id))
    assert theirs.get_experiment(experiment[1]).name == experiment[0]
    assert permission(username=somebody, every="run", permission="DENY")["changed"] is False
    assert permission(username=somebody, every="run", state="absent")["changed"]
    assert theirs.get_run(run_id).info.run_id == run_id


def test_every_kind_is_one_that_the_server_knows(permission, server, somebody):
    with pytest.raises(mlflow_api.ApiError) as error:
        server.call("/api/3.0/mlflow/users/permissions/grant",
                    {"username": somebody, "resource_type": "none", "resource_id": "*", "permission": "USE"})
    valid = str(error.value).partition("Valid resource types are")[2]
    assert set(re.findall(r"'(\w+)'", valid)) - {"workspace"} == set(mlflow_permission.KINDS)
    for kind in mlflow_permission.KINDS:
        assert permission(username=somebody, every=kind, permission="USE").get("changed"), kind


@pytest.fixture
def things(server, experiment):
    """A thing of each other kind, by the option that names it."""
    title, number = experiment
    server.call("/api/3.0/mlflow/scorers/register",
                {"experiment_id": number, "name": "to/the point", "serialized_scorer": "{}"})
    server.call("/api/2.0/mlflow/registered-models/create",
                {"name": title, "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]})
    secret = server.call("/api/3.0/mlflow/gateway/secrets/create",
                         {"secret_name": title, "secret_value": {"api_key": "x"},
                          "provider": "openai"})["secret"]["secret_id"]
    model = server.call("/api/3.0/mlflow/gateway/model-definitions/create",
                        {"name": title, "secret_id": secret, "provider": "openai",
                         "model_name": "gpt-4o"})["model_definition"]["model_definition_id"]
    endpoint = server.call("/api/3.0/mlflow/gateway/endpoints/create", {
        "name": title,
        "model_configs": [{"model_definition_id": model, "linkage_type": "PRIMARY"}]})["endpoint"]["endpoint_id"]
    server.call("/api/3.0/mlflow/mcp-servers", {"name": f"org.example/{title}"})
    return {"scorer": ("to/the point", f"{number}/to%2Fthe%20point"), "prompt": (title, title),
            "gateway_secret": (title, secret),
            "gateway_model_definition": (title, model), "gateway_endpoint": (title, endpoint),
            "mcp_server": (f"org.example/{title}", f"org.example/{title}")}


def test_other_kinds(permission, server, somebody, experiment, things):
    for option, (thing, identifier) in things.items():
        options = {"username": somebody, option: thing, **({"experiment": experiment[0]} if option == "scorer" else {})}
        made = permission(**options, permission="MANAGE")
        assert made.get("changed"), made
        assert (made["grant"]["resource_type"], made["grant"]["resource_id"]) == (option, identifier)
        if option != "prompt":  # of which the server does not tell
            assert server.call("/api/3.0/mlflow/users/permissions/get", username=somebody, resource_type=option,
                               resource_id=identifier)["permission"] == "MANAGE"
        assert permission(**options, permission="MANAGE")["changed"] is False
        assert permission(**options, state="absent")["changed"]
    assert "it is a prompt." in permission(username=somebody, registered_model=experiment[0], permission="READ")["msg"]


def test_check_mode_changes_no_permission(permission, client, somebody, experiment):
    options = {"username": somebody, "experiment": experiment[0], "permission": "EDIT"}
    assert permission(**options, _ansible_check_mode=True)["changed"]
    refused(lambda: client(somebody, PASSWORD).create_run(experiment[1]))
    assert permission(**options)["changed"]
    assert permission(**{**options, "permission": "READ"}, _ansible_check_mode=True)["changed"]
    assert permission(username=somebody, experiment=experiment[0], state="absent", _ansible_check_mode=True)["changed"]
    assert permission(**options)["changed"] is False


def test_a_grant_goes_with_its_user(user, permission, client, somebody, experiment):
    assert permission(username=somebody, experiment=experiment[0], permission="EDIT")["changed"]
    assert user(username=somebody, state="absent")["changed"]
    assert user(username=somebody, password=PASSWORD)["changed"]
    refused(lambda: client(somebody, PASSWORD).create_run(experiment[1]))


def test_what_is_not_there_has_no_permission(permission, somebody):
    for options in ({"username": "nobody", "experiment": "Default"}, {"username": somebody, "experiment": "none such"}):
        assert permission(**options, state="absent")["changed"] is False


@pytest.mark.parametrize("options, words", [
    ({"username": "nobody", "experiment": "Default"}, "User nobody does not exist on "),
    ({"experiment": "none such"}, "Experiment none such does not exist on "),
    ({"experiment_id": "987654"}, "Experiment 987654 does not exist on "),
    ({"experiment_id": "a name"}, "Experiment a name does not exist on "),
    ({"experiment": "Default", "scorer": "none"}, "Scorer none of experiment Default does not exist on "),
    ({"registered_model": "none"}, "Registered model none does not exist on "),
    ({"prompt": "none"}, "Prompt none does not exist on "),
    ({"gateway_endpoint": "none"}, "Gateway endpoint none does not exist on "),
    ({"gateway_model_definition": "none"}, "Gateway model definition none does not exist on "),
    ({"gateway_secret": "none"}, "Gateway secret none does not exist on "),
    ({"mcp_server": "org.example/none"}, "MCP server org.example/none does not exist on "),
    ({"experiment": "Default", "registered_model": "none"}, "mutually exclusive"),
    ({"registered_model": "none", "scorer": "none"}, "mutually exclusive"),
    ({}, "one of the following is required: experiment, experiment_id"),
    ({"experiment": "Default", "permission": None},
     "state is present but all of the following are missing: permission"),
    ({"experiment": "Default", "permission": "NO_PERMISSIONS"}, "value of permission must be one of"),
    ({"experiment": "Default", "login_password": "wrong"}, "refuses user chief (401)"),
    ({"experiment": "Default", "path_prefix": "/elsewhere"}, "has no users (404)"),
])
def test_what_is_wrong_with_a_permission_is_said(permission, somebody, options, words):
    failed = permission(**{"username": somebody, "permission": "READ", **options})
    assert failed.get("failed") and words in failed["msg"], failed


# What the modules share

def test_health_needs_a_login(login):
    for user, healthy in (((login["login_username"], login["login_password"]), True), ((None, None), False)):
        report = checks.measure("server", {"url": login["url"], "username": user[0], "password": user[1], "samples": 1})
        assert report["healthy"] is healthy, report["failures"]


def test_the_version_needs_a_login(login):
    options = {"url": login["url"], "index_url": "http://127.0.0.1:9"}
    assert run(mlflow_version_info, **options, username=login["login_username"],
               password=login["login_password"])["installed"] == mlflow.__version__
    nobody = run(mlflow_version_info, **options)
    assert nobody["installed"] is None and "/version answers 401" in nobody["message"]


def test_a_hash_in_an_answer_is_not_passed_on(server, somebody):
    with pytest.raises(mlflow_api.ApiError, match="already exists") as error:
        server.call("/api/2.0/mlflow/users/create", {"username": somebody, "password": PASSWORD})
    assert "scrypt" not in str(error.value)
