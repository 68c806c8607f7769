# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller gets: by the rules of AWX, and each job template's playbook as a job.

A job of a template that changes or measures an instance needs one. With MLOPS_DEPLOY=1 the jobs deploy one on podman,
by the survey, and go through all templates with it (MLOPS_DEPLOY=1 pytest tests/platform -k every_job). Without it,
they run on an instance that is not deployed, whose outcome is known.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import pathlib
import re

import awx_rules
import pytest
import yaml
from ansible_collections.awx import awx
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import PLAYBOOK_VARIABLES, SPECS
from conftest import LOCALHOST, ROOT, run_job

ANSWERS = {"mlflow_controller_project_url": "https://git.example.com/ml/mlflow.git",
           "mlflow_controller_notification_url": "https://hooks.example.com/mlflow",
           "mlflow_controller_survey_credentials": ["controller"], "mlflow_controller_versions": ["3.17.2", "3.12.0"]}
INSTANCE = {"mlflow_instance": "platform-job", "mlflow_image_source": "build", "mlflow_version": "3.12.0",
            "database_type": "postgresql", "object_storage_type": "volume",
            "mlflow_server_publish": "127.0.0.1:5931", "backup_type": "volume"}
"""Answers of the survey."""
GIVEN = {
    "MLflow backup": {"mlflow_verify_backup": "true"},
    "MLflow restart": {"mlflow_restart_unhealthy_only": "true"},
    "MLflow restore": {"mlflow_restore_set": "latest", "mlflow_restore_from": ""},
    "MLflow rehearse upgrade": {"mlflow_upgrade_to": "3.17.2"},
    "MLflow upgrade": {"mlflow_upgrade_to": "3.17.2"},
    "MLflow uninstall": {"mlflow_purge_data": "true", "mlflow_purge_confirm": "platform-job"},
}
"""Answers of other surveys, as the user interface gives them: an empty text where nothing was entered."""
NOT_DEPLOYED = {
    "MLflow status": (0, "not installed"),
    "MLflow verify": (2, "is not installed"),
    "MLflow open": (0, "http://127.0.0.1:5931"),
    "MLflow rotate": (2, "platform-job"),
    "MLflow backup": (2, "are not deployed; run playbooks/site.yml"),
    "MLflow restore": (0, "is not deployed. It would be"),
    "MLflow service levels": (2, "is not installed"),
    "MLflow rehearse upgrade": (0, "is not deployed; MLflow 3.17.2 takes over"),
    "MLflow upgrade": (0, "is not deployed; MLflow 3.17.2 takes over"),
    "MLflow roll back": (2, "is not deployed; run playbooks/site.yml"),
    "MLflow restart": (2, "runs no pods of mlflow_server"),
    "MLflow maintain": (2, "has no programs for maintenance yet"),
    "MLflow uninstall": (0, "changed=0"),
}
"""Exit code and a text of a job for an instance that is not deployed."""


@pytest.fixture(scope="module")
def definition(tmp_path_factory) -> dict:
    """The variables of vars/controller.yml."""
    folder = tmp_path_factory.mktemp("definition")
    variables = {**ANSWERS, "definition_dest": str(folder / "definition.json")}
    done = run_job(folder, "../tests/platform/definition.yml", variables)
    assert done.code == 0, done.output
    return json.loads((folder / "definition.json").read_text())


def test_surveys_are_taken(definition):
    surveys = [template["survey_spec"]
               for template in definition["controller_templates"] + definition["controller_workflows"]
               if template.get("survey_enabled")]
    assert len(surveys) >= 4
    for survey in surveys:
        assert not list(awx_rules.survey_problems(survey))
        for element in survey["spec"]:
            assert element["variable"] in SPECS or element["variable"] in PLAYBOOK_VARIABLES, element["variable"]


def test_credential_types_are_taken_and_give_variables_that_exist(definition):
    for kind in definition["controller_credential_types"]:
        assert not list(awx_rules.credential_type_problems(kind["inputs"], kind["injectors"])), kind["name"]
        secret = {field["id"] for field in kind["inputs"]["fields"] if field.get("secret")}
        for variable, template in kind["injectors"].get("extra_vars", {}).items():
            assert variable in SPECS
            # What no message may show is not shown by the controller either.
            assert variable not in components.secrets() or re.findall(r"[a-z_]+", template)[0] in secret, variable


def test_modules_of_awx_have_the_parameters():
    """By their own documentation; those of role, for instance, are not those of host."""
    tasks = [task for play in yaml.safe_load((ROOT / "playbooks/controller.yml").read_text()) for task in play["tasks"]]
    tasks += yaml.safe_load((ROOT / "playbooks/tasks/controller_host.yml").read_text())
    modules = [(name, given) for task in tasks for name, given in task.items() if name.startswith("awx.awx.")]
    assert len({name for name, _given in modules}) >= 12
    for name, given in modules:
        path = pathlib.Path(awx.__path__[0]) / "plugins/modules" / f"{name.rpartition('.')[2]}.py"
        documented = next(ast.literal_eval(node.value) for node in ast.parse(path.read_text()).body
                          if isinstance(node, ast.Assign) and node.targets[0].id == "DOCUMENTATION")
        assert set(given) <= set(yaml.safe_load(documented)["options"]), name


def test_environment_of_ansible_is_refused(definition):
    kind = definition["controller_credential_types"][0]
    injectors = {"env": {"ANSIBLE_BECOME_PASS": "{{ kubeconfig }}"}}
    assert list(awx_rules.credential_type_problems(kind["inputs"], injectors))


def test_optional_inputs_that_are_empty_give_defaults(definition):
    kind = next(each for each in definition["controller_credential_types"] if each["name"] == "MLflow backup")
    given = awx_rules.inject(kind["injectors"], {"passphrase": "a phrase", "access_key": "", "secret_key": ""})
    assert given["extra_vars"] == {"backup_passphrase": "a phrase", "backup_access_key": "", "backup_secret_key": ""}


def test_values_of_credentials_are_no_templates(definition, tmp_path):
    """What looks like a template in an input of a credential is a value, as it was entered."""
    stolen = tmp_path / "evaluated"
    text = "{{ lookup('ansible.builtin.pipe', 'touch %s') }}{% if true %}-%s{% endif %}"
    values = {name: text.replace("%s", str(stolen), 1).replace("%s", name) for name in (
        "password", "access_key", "secret_key", "admin_password")}
    answers = {"mlflow_instance": "platform-job", "mlflow_engine": "kubernetes", "mlflow_server_auth": "basic",
               "database_type": "postgresql", "object_storage_type": "seaweedfs",
               "mlflow_render_dir": str(tmp_path / "rendered"), "mlflow_render_secrets": "plain"}
    for kind in definition["controller_credential_types"]:
        if kind["name"] in ("MLflow database", "MLflow S3", "MLflow login"):
            given = awx_rules.inject(kind["injectors"], {**values, "user": "{{ user }}"})
            answers |= {name: value for name, value in given["extra_vars"].items() if value}
    done = run_job(tmp_path / "job", "site.yml", answers, inventory=inventory({}), cmdline="--skip-tags images")
    assert done.code == 0, done.output[-3000:]
    secrets = [yaml.safe_load(path.read_text()) for path in tmp_path.rglob("secret-*.yaml")]
    found = {base64.b64decode(value).decode() for secret in secrets for value in secret["data"].values()}
    assert {"{{ user }}", *values.values()} <= found, found
    assert not stolen.exists() and not any(value in done.output for value in values.values())


def test_answers_that_an_inventory_takes_for_templates_are_refused(tmp_path):
    """They would be host variables in the controller, which the jobs of others evaluate."""
    answers = {"mlflow_instance": "platform-job", "object_storage_type": "s3", "object_storage_bucket": "models",
               "object_storage_url": "http://{{ lookup('ansible.builtin.pipe', 'touch %s/evaluated') }}" % tmp_path}
    done = run_job(tmp_path, "survey.yml", answers)
    assert done.code != 0 and not (tmp_path / "evaluated").exists()
    assert "object_storage_url holds {{, {% or {#" in " ".join(done.output.split()), done.output[-3000:]


def test_what_is_named_exists(definition):
    templates = {template["name"]: template for template in definition["controller_templates"]}
    workflows = {workflow["name"] for workflow in definition["controller_workflows"]}
    assert len(templates) == len(definition["controller_templates"])
    projects = {project["name"] for project in definition["controller_projects"]}
    inventories = {inventory["name"] for inventory in definition["controller_inventories"]}
    environments = {each["name"] for each in definition["controller_execution_environments"]}
    for template in templates.values():
        assert (ROOT / template["playbook"]).is_file(), template["playbook"]
        assert template["project"] in projects and template["inventory"] in inventories
        assert template["execution_environment"] in environments
    for schedule in definition["controller_schedules"]:
        assert schedule["unified_job_template"] in templates
    teams = {team["name"] for team in definition["aap_teams"]}
    for role in definition["controller_roles"]:
        assert role["team"] in teams
        assert set(role.get("job_templates", [])) <= set(templates) and set(role.get("workflows", [])) <= workflows
        assert set(role.get("inventories", [])) <= inventories
    for source in definition["controller_inventory_sources"]:
        assert source["source_project"] in projects and source["inventory"] in inventories


def test_rulebooks_run_job_templates_that_exist_and_ask_for_what_they_give(definition):
    templates = {template["name"]: template for template in definition["controller_templates"]}
    found = 0
    for path in (ROOT / "extensions/eda/rulebooks").glob("*_controller.yml"):
        for rule in yaml.safe_load(path.read_text())[0]["rules"]:
            for action in rule.get("actions") or [rule["action"]]:
                job = action["run_job_template"]
                if job["name"] == "{{ mlflow_events_template }}":
                    continue
                template, found = templates[job["name"]], found + 1
                assert template["ask_limit_on_launch"]
                extra = job.get("job_args", {}).get("extra_vars", {})
                given, problems = awx_rules.launch(template.get("survey_spec") or {"spec": []}, extra)
                assert not problems and extra.items() <= given.items(), job
    assert found == 4


def test_workflows_go_on_only_after_success(definition):
    templates = {template["name"] for template in definition["controller_templates"]}
    for workflow in definition["controller_workflows"]:
        nodes = {node["identifier"]: node for node in workflow["workflow_nodes"]}
        for node in nodes.values():
            target = node["unified_job_template"]
            assert target["type"] == "workflow_approval" or target["name"] in templates
            related = node.get("related", {})
            assert set(related) <= {"success_nodes"}
            for following in related.get("success_nodes", []):
                assert following["identifier"] in nodes


def test_the_survey_takes_no_secret_from_the_definition(definition):
    assert not [element for template in definition["controller_templates"]
                for element in (template.get("survey_spec") or {}).get("spec", [])
                if element["type"] == "password" and "default" in element]


def test_data_is_deleted_only_of_instances_that_are_named(tmp_path):
    given = {**GIVEN["MLflow uninstall"], "mlflow_purge_confirm": "another"}
    done = run_job(tmp_path, "uninstall.yml", given, inventory=inventory({}))
    assert done.code != 0 and "mlflow_purge_confirm does not name platform-job" in done.output


def inventory(host: dict) -> str:
    """The inventory of the instance, as the controller writes its hosts."""
    connection = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    return yaml.safe_dump({"all": {"hosts": {"platform-job": {**connection, **INSTANCE, **host}}}})


@pytest.mark.skipif(not os.environ.get("MLOPS_DEPLOY"), reason="MLOPS_DEPLOY=1 deploys an instance and takes minutes")
def test_every_job_of_an_instance(definition, tmp_path):
    """The jobs of all templates, one after the other, on an instance that the survey's job deploys."""
    templates = {template["name"]: template for template in definition["controller_templates"]}
    order = [name for name in templates if name != "MLflow uninstall"] + ["MLflow uninstall"]
    for number, name in enumerate(order):
        answers = INSTANCE if "survey" in name else GIVEN.get(name, {})
        done = run_template(tmp_path / str(number), templates[name], answers)
        print(name, done.code)
        assert done.code == 0, f"{name}\n{done.output[-6000:]}"


def test_every_job_without_an_instance(definition, tmp_path):
    """The playbook of each template runs with the answers of its survey, up to what is not there."""
    for number, template in enumerate(definition["controller_templates"]):
        name = template["name"]
        if name in ("MLflow deploy by survey", "MLflow deploy"):
            continue  # test_survey.py runs the first, which imports the second
        done = run_template(tmp_path / str(number), template, GIVEN.get(name, {}), cmdline="--check")
        code, text = NOT_DEPLOYED[name]
        assert (done.code, text in done.output) == (code, True), f"{name}: {done.code}\n{done.output[-3000:]}"
        assert "is undefined" not in done.output, done.output[-3000:]


def run_template(folder: pathlib.Path, template: dict, answers: dict, **settings):
    """A job of a template, with the answers of its survey."""
    extra, problems = dict(answers), []
    if template.get("survey_enabled"):
        extra, problems = awx_rules.launch(template["survey_spec"], answers)
    assert not problems
    hosts = LOCALHOST if "survey" in template["name"] else inventory({})
    own = {name: value for name, value in (template.get("extra_vars") or {}).items()
           if not name.startswith("mlflow_controller_")}
    if template.get("job_tags"):
        settings["cmdline"] = f"{settings.get('cmdline', '')} --tags {template['job_tags']}".strip()
    playbook = template["playbook"].removeprefix("playbooks/")
    return run_job(folder, playbook, {**own, **extra}, inventory=hosts, **settings)
