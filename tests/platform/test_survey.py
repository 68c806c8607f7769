# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A survey and the wizard: the same answers give the same instance."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import awx_rules
import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import resolve
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import awx, questions
from conftest import ENVIRONMENT, ROOT
from person import Person

NO_INDEX = "http://127.0.0.1:9/simple"
"""A package index that does not answer."""
PASSWORD = "p@ss {{ word }} 'x\""
ANSWERS = {
    "cluster": {
        "mlflow_engine": "kubernetes", "mlflow_instance": "vision", "mlflow_namespace": "ml",
        "mlflow_server_size": "medium", "mlflow_server_replicas": 2, "mlflow_version": "3.17.2",
        "database_type": "postgresql", "database_host": "db.example.com", "database_port": 5433,
        "database_user": "ana",
        "database_password": PASSWORD, "database_tls": "require", "object_storage_type": "s3",
        "object_storage_url": "https://s3.example.com", "object_storage_access_key": "AKIA-of-the-test",
        "object_storage_secret_key": "Key-of-the-store", "object_storage_bucket_create": "true",
        "mlflow_server_auth": "basic",
        "ingress_type": "gateway", "ingress_hosts": "mlflow.example.com, models.example.com",
        "mlflow_gateway": "gateways/shared", "ingress_tls": "controller", "monitoring_type": "operator",
        "backup_type": "s3", "backup_bucket": "backups", "backup_passphrase": "a long passphrase"},
    "machine": {
        "mlflow_instance": "mlflow-small", "mlflow_machine": "ana@podman.example.com", "mlflow_image_source": "build",
        "database_type": "sqlite", "object_storage_type": "volume", "mlflow_server_publish": "127.0.0.1:5055",
        "monitoring_type": "prometheus", "monitoring_alert_email_to": "a@example.com",
        "monitoring_alert_email_from": "b@example.com", "monitoring_alert_email_smarthost": "mail.example.com:587",
        "backup_type": "volume", "backup_keep_days": 7},
    "defaults": {"mlflow_instance": "mlflow", "mlflow_server_publish": "127.0.0.1:5000"},
}


def test_awx_takes_the_survey():
    survey = awx.spec(["3.17.2", "3.16.0", "3.9.0"])
    assert not list(awx_rules.survey_problems(survey))
    version = next(element for element in survey["spec"] if element["variable"] == "mlflow_version")
    assert version["choices"] == ["latest", "3.17.2", "3.16.0"]


def test_wrong_surveys_are_refused():
    survey = awx.spec()
    for change in ({"type": "boolean"}, {"min": 0.5}, {"required": "yes"}, {"variable": "mlflow_instance"},
                   {"default": True}):
        wrong = {**survey, "spec": [*survey["spec"][1:], {**survey["spec"][0], **change}]}
        assert list(awx_rules.survey_problems(wrong)), change


def test_every_choice_and_default_is_one_of_the_variable():
    for element in awx.spec()["spec"]:
        question = questions.QUESTIONS[element["variable"]]
        for answer in [*element.get("choices", []), *filter(None, [element.get("default")])]:
            question.convert(answer)
        if "default" in element:
            assert question.convert(element["default"]) == question.default


def test_no_secret_is_a_text():
    for element in awx.spec()["spec"]:
        assert (element["type"] == "password") == (element["variable"] in components.secrets())


def test_every_text_says_something():
    texts = [question.text for question in questions.QUESTIONS.values()]
    for text in texts:
        assert len(text.split()) > 0 and not text.endswith("."), text
    for step in questions.STEPS:
        named = [question.text for question in step.questions]
        assert len(named) == len(set(named)), named


def test_an_unchanged_survey_is_the_default_instance():
    """AWX gives an empty text for each text that nobody entered."""
    survey = awx.spec()
    empty = {element["variable"]: "" for element in survey["spec"] if element["type"] in awx.LONGEST}
    given, problems = awx_rules.launch(survey, {"mlflow_instance": "mlflow"})
    assert not problems
    extra = {**empty, **given}
    for own in questions.OWN:
        extra.pop(own, None)
    one, other = resolve(extra.__getitem__, extra, "mlflow"), resolve({}.__getitem__, {}, "mlflow")
    assert one.parts == other.parts and one.instance == other.instance


@pytest.mark.parametrize("answers, sentence", [
    ({"mlflow_instance": ""}, "mlflow_instance is ''; give the instance a name"),
    ({"mlflow_instance": "Vision"}, "mlflow_instance is 'Vision'"),
    ({"database_type": "sqlite", "mlflow_server_replicas": 3}, "mlflow_server_replicas"),
    ({"database_host": "db.example.com"}, "database_password"),
    ({"ingress_type": "proxy"}, "ingress_hosts"),
    ({"mlflow_server_replicas": "many"}, "mlflow_server_replicas is 'many'; it must be a whole number"),
    ({"ingress_type": "gateway", "mlflow_engine": "kubernetes", "ingress_hosts": "a.test"}, "ingress_gateway"),
])
def test_what_no_survey_checks_is_refused(answers, sentence):
    problems = questions.problems({"mlflow_instance": "mlflow", **answers})
    assert any(sentence in problem for problem in problems), problems


def keys(answers: dict) -> dict[str, str]:
    """Answers as they are typed."""
    return {name: str(answer) for name, answer in answers.items()}


@pytest.fixture(scope="module", params=ANSWERS)
def both(request, tmp_path_factory):
    """The answers, the folder of the inventory that the wizard wrote, and the variables that were asked for."""
    answers, home = ANSWERS[request.param], tmp_path_factory.mktemp(request.param)
    person = Person(home, NO_INDEX)
    person.answer(keys(answers))
    person.press("\r")  # the first entry writes the inventory
    if any(name in components.secrets() for name in answers):
        person.expect("Password for Ansible Vault")
        person.press("vault password\r")
    person.expect("Folder of the inventory")
    person.press("\x15" + str(home / "inventory") + "\r")
    person.expect("Show what would change (--check)?")
    person.press("n")
    person.expect("Deploy it now?")
    person.press("n")
    person.terminal.expect("Deploy it by: make quickstart")
    person.terminal.expect(r"\Z|.*$")
    person.terminal.close()
    return answers, home / "inventory", person.asked


def test_only_what_matters_is_asked(both):
    answers, _inventory, asked = both
    assert len(asked) == len(set(asked))
    assert set(asked) == {name for name, question in questions.QUESTIONS.items() if question.matters(answers)}


def test_a_step_that_is_refused_is_asked_again(tmp_path):
    person = Person(tmp_path, NO_INDEX)
    person.expect("Engine that runs the instance")
    person.press("\r")
    person.expect("Name of the instance")
    person.press("\x15Vision\r")
    person.expect("Host that runs podman")
    person.press("\r")
    person.expect("Source of images")
    person.press("\r")
    person.terminal.expect_exact("mlflow_instance is 'Vision'; give the instance a name")
    person.expect("Engine that runs the instance")
    person.press("\x03")
    person.terminal.expect_exact("Ended.")
    person.terminal.close()


def test_without_a_terminal_the_wizard_says_so():
    done = subprocess.run([sys.executable, "tools/wizard.py"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("make wizard asks at a terminal.")


def test_secrets_are_encrypted_and_files_are_the_owner_s(both):
    answers, inventory, _asked = both
    text = "".join(path.read_text() for path in inventory.rglob("*.yml"))
    for name in set(answers) & components.secrets():
        assert str(answers[name]) not in text
    assert all(path.stat().st_mode & 0o077 == 0 for path in inventory.rglob("*.yml"))


def test_the_inventory_has_a_comment_for_each_variable(both):
    _answers, inventory, _asked = both
    lines = (inventory / "hosts.yml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("      ") and line.lstrip()[0] != "#" and not line.lstrip().startswith("ansible_"):
            assert lines[number - 1].lstrip().startswith("# "), line
    assert max(map(len, lines)) <= 120 and any("mlflow_version: 3.17.2" in line for line in lines)


def test_terminal_and_survey_give_the_same_instance(both, job, tmp_path):
    """By the manifests of site.yml with the inventory, and those of survey.yml with the extra variables of a launch."""
    answers, inventory, _asked = both
    extra, problems = awx_rules.launch(awx.spec(), answers)
    assert not problems
    (tmp_path / "password").write_text("vault password")
    done = subprocess.run(
        ["ansible-playbook", "-i", inventory, "playbooks/site.yml", "--vault-password-file", tmp_path / "password",
         "--skip-tags", "images", "-e", json.dumps({"mlflow_render_dir": str(tmp_path / "rendered")})],
        cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = rendered(tmp_path / "rendered")
    shutil.rmtree(tmp_path / "rendered")
    survey = job("survey.yml", {**extra, "mlflow_render_dir": str(tmp_path / "rendered")}, cmdline="--skip-tags images")
    assert survey.code == 0, survey.output
    assert PASSWORD not in survey.output
    assert files and files == rendered(tmp_path / "rendered")


def rendered(folder: pathlib.Path) -> dict[str, str]:
    """Rendered files by path."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")}
