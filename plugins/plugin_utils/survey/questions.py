# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The questions about an instance: which variables are asked for, in which order, and when an answer matters.

What is asked, which answers there are and the default follow from the argument specs, so that neither text nor choices
are written twice. Only where an answer is no variable of a role is its spec here (``OWN``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common, resolve, variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError

OWN: Mapping[str, dict] = {
    "mlflow_machine": {
        "description": [
            "Host that runs podman, as C(HOST) or C(USER@HOST), to which Ansible connects by SSH.",
            "Empty is the machine on which Ansible runs."],
        "type": "str", "default": ""},
    "mlflow_gateway": {
        "description": ["Gateway of the HTTPRoute, as C(NAMESPACE/NAME) (O(ingress_gateway))."],
        "type": "str", "default": ""},
}
"""Questions whose answers become something else than a variable of the same name (``host_variables``)."""
ANY = "*"
"""In a condition: any answer that is not empty."""


@dataclass(frozen=True)
class Question:
    """A variable that is asked for.

    Attributes:
        variable: its name.
        when: answers to other questions with which it matters: variable to values, of which one is given. All of
            them must be met.
        suggested: answer that a terminal proposes, where it is another than the default.
        terminal: whether it is asked at a terminal only, since Ansible Automation Platform has another place for it.
    """

    variable: str
    when: Mapping[str, tuple]
    suggested: str
    terminal: bool

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its argument spec."""
        return OWN.get(self.variable) or variables.SPECS[self.variable]

    @property
    def default(self) -> Any:
        """Its default, of its type; None where it has none or it follows from others."""
        return variables.default_of(self.spec)

    @property
    def secret(self) -> bool:
        """Whether no message may show the answer."""
        return self.variable in components.secrets()

    @property
    def text(self) -> str:
        """What is asked: the first sentence of its description, without the full stop."""
        return re.split(r"(?<=[A-Za-z0-9)])\.(?=\s|$)", self._paragraphs()[0], maxsplit=1)[0].removesuffix(".")

    @property
    def help(self) -> str:
        """The rest of its description."""
        first, *others = self._paragraphs()
        return " ".join([first[len(self.text):].lstrip(". "), *others]).strip()

    @property
    def choices(self) -> list[str]:
        """The answers that may be given, in the form in which a survey gives them; none where the answer is free. What
        is empty is chosen by no answer."""
        if self.spec.get("type") == "bool":
            return ["true", "false"]
        return [str(choice) for choice in self.spec.get("choices") or () if choice != ""]

    def _paragraphs(self) -> list[str]:
        text = self.spec["description"]
        return [plain(paragraph) for paragraph in ([text] if isinstance(text, str) else text)]

    def matters(self, answers: Mapping[str, Any]) -> bool:
        """Whether the answer is of use with the other answers; those that are not given have their defaults."""
        for variable, wanted in self.when.items():
            question = QUESTIONS[variable]
            answer = answers.get(variable) if question.matters(answers) else None
            answer = question.default if answer in (None, "") else answer
            if not answer if wanted == (ANY,) else answer not in wanted:
                return False
        return True

    def condition(self) -> str:
        """When the answer matters, in words; empty where it always does."""
        return " and ".join(f"{variable} is {'set' if values == (ANY,) else ' or '.join(values) or 'empty'}"
                            for variable, values in self.when.items())

    def convert(self, answer: Any) -> Any:
        """An answer as the variable's type; VariableError with a sentence where it is none."""
        form = variables.Form(self.variable in components.multiline(), self.secret,
                              self.variable in components.separated())
        return variables.convert(self.variable, answer, self.spec, form)


@dataclass(frozen=True)
class Step:
    """Questions that belong together.

    Attributes:
        title: their heading.
        questions: the questions.
    """

    title: str
    questions: tuple[Question, ...]


def plain(text: str) -> str:
    """A description without Ansible's markup."""
    return re.sub(r"\b[A-Z]\((.*?)\)", r"\1", " ".join(text.split()))


def ask(variable: str, suggested: str = "", terminal: bool = False, **when: Any) -> Question:
    """A question. Conditions are a value, a tuple of values, or ANY."""
    return Question(variable, {name: value if isinstance(value, tuple) else (value,) for name, value in when.items()},
                    suggested, terminal)


KUBERNETES = {"mlflow_engine": "kubernetes"}
MANAGED = ("postgresql", "mariadb", "mysql")
"""Databases that are servers."""
BUCKETS = ("seaweedfs", "minio", "s3", "gcs", "azure")

STEPS = (
    Step("Where", (
        ask("mlflow_engine"),
        ask("mlflow_instance", suggested="mlflow"),
        ask("mlflow_namespace", **KUBERNETES),
        ask("mlflow_machine", mlflow_engine="podman"),
        ask("mlflow_kubeconfig", terminal=True, **KUBERNETES),
        ask("mlflow_context", **KUBERNETES),
        ask("mlflow_image_source"),
    )),
    Step("Size", (
        ask("mlflow_server_size"),
        ask("mlflow_server_replicas"),
    )),
    Step("Version", (
        ask("mlflow_version"),
    )),
    Step("Stores", (
        ask("database_type"),
        ask("database_host", database_type=MANAGED),
        ask("database_port", database_host=ANY),
        ask("database_name", database_host=ANY),
        ask("database_user", database_host=ANY),
        ask("database_password", database_host=ANY),
        ask("database_tls", database_host=ANY),
        ask("database_size", database_host="", **KUBERNETES),
        ask("object_storage_type"),
        ask("object_storage_bucket", object_storage_type=BUCKETS),
        ask("object_storage_url", object_storage_type="s3"),
        ask("object_storage_region", object_storage_type=("s3", "gcs")),
        ask("object_storage_access_key", object_storage_type="s3"),
        ask("object_storage_secret_key", object_storage_access_key=ANY),
        ask("object_storage_gcs_credentials", object_storage_type="gcs"),
        ask("object_storage_azure_account", object_storage_type="azure"),
        ask("object_storage_azure_access_key", object_storage_type="azure"),
        ask("object_storage_bucket_create", object_storage_type=("s3", "gcs", "azure")),
        ask("object_storage_existing_claim", object_storage_type="volume", **KUBERNETES),
        ask("object_storage_size", object_storage_type=("seaweedfs", "minio", "volume", "ephemeral"), **KUBERNETES),
    )),
    Step("Access", (
        ask("mlflow_server_publish", suggested="127.0.0.1:5000", mlflow_engine="podman"),
        ask("mlflow_server_auth"),
        ask("mlflow_server_auth_admin_password", mlflow_server_auth=("basic", "proxy", "oidc")),
        ask("mlflow_server_oidc_issuer", mlflow_server_auth="oidc"),
        ask("mlflow_server_oidc_client_id", mlflow_server_auth="oidc"),
        ask("mlflow_server_oidc_client_secret", mlflow_server_auth="oidc"),
        ask("ingress_type"),
        ask("ingress_hosts", ingress_type=("ingress", "gateway", "proxy")),
        ask("ingress_path", ingress_type=("ingress", "gateway", "proxy")),
        ask("ingress_class", ingress_type="ingress"),
        ask("ingress_preset", ingress_type=("ingress", "gateway")),
        ask("mlflow_gateway", ingress_type="gateway"),
        ask("ingress_tls", ingress_type=("ingress", "gateway", "proxy")),
        ask("ingress_tls_secret", ingress_tls="secret"),
        ask("ingress_issuer", ingress_tls="cert_manager"),
    )),
    Step("Monitoring", (
        ask("monitoring_type"),
        ask("monitoring_grafana", monitoring_type="prometheus"),
        ask("monitoring_alert_webhook_url", monitoring_type="prometheus"),
        ask("monitoring_alert_slack_url", monitoring_type="prometheus"),
        ask("monitoring_alert_email_to", monitoring_type="prometheus"),
        ask("monitoring_alert_email_from", monitoring_alert_email_to=ANY),
        ask("monitoring_alert_email_smarthost", monitoring_alert_email_to=ANY),
    )),
    Step("Backup", (
        ask("backup_type"),
        ask("backup_schedule", backup_type=("s3", "volume")),
        ask("backup_keep_days", backup_type=("s3", "volume")),
        ask("backup_bucket", backup_type="s3"),
        ask("backup_url", backup_type="s3"),
        ask("backup_region", backup_type="s3"),
        ask("backup_access_key", backup_type="s3"),
        ask("backup_secret_key", backup_access_key=ANY),
        ask("backup_size", backup_type="volume", **KUBERNETES),
        ask("backup_passphrase", backup_type=("s3", "volume")),
    )),
)
"""The steps before the last one, the review."""
QUESTIONS = {question.variable: question for step in STEPS for question in step.questions}


def version_choices(found: Iterable[str]) -> list[str]:
    """The versions of MLflow to choose from: ``latest``, those that were found and are supported, newest first, and the
    default.

    Args:
        found: versions that can be installed; none where no package index answers.
    """
    default = str(variables.SPECS["mlflow_version"]["default"])
    number = versions.Version
    supported = {version for version in [*found, default] if number(version) >= number(versions.SUPPORTED[0])}
    return [versions.LATEST, *sorted(supported, key=number, reverse=True)]


def given(answers: Mapping[str, Any]) -> Iterator[tuple[Question, Any]]:
    """The answers that describe the instance, each with its question and as the variable's type.

    Left out are answers that are empty, those that do not matter with the others, and defaults of them.

    Raises:
        VariableError: with a sentence for each answer of another type.
    """
    typed, problems = {}, []
    for variable, question in QUESTIONS.items():
        if answers.get(variable) in (None, "", []):
            continue
        try:
            typed[variable] = question.convert(answers[variable])
        except VariableError as error:
            problems.append(str(error))
    if problems:
        raise VariableError("\n".join(problems))
    for variable, answer in typed.items():
        question = QUESTIONS[variable]
        if question.matters(typed) or answer != question.default:
            yield question, answer


def host_variables(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the inventory host that answers describe.

    Each has the name of its question, except that

    - ``mlflow_machine`` becomes ``ansible_host`` and ``ansible_user``, and an empty one ``ansible_connection: local``;
    - ``mlflow_gateway`` becomes ``ingress_gateway``.

    Raises:
        VariableError: with a sentence for each answer that is none.
    """
    result: dict[str, Any] = {question.variable: answer for question, answer in given(answers)}
    user, _at, machine = result.pop("mlflow_machine", "").rpartition("@")
    connection: dict[str, Any] = {"ansible_connection": "local",
                                  "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    if machine and result.get("mlflow_engine", "podman") == "podman":
        connection = {"ansible_host": machine, **({"ansible_user": user} if user else {})}
    if "mlflow_gateway" in result:
        namespace, _slash, name = result.pop("mlflow_gateway").rpartition("/")
        result["ingress_gateway"] = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {**connection, **result}


def problems(answers: Mapping[str, Any]) -> list[str]:
    """The sentences by which the variables of the host that answers describe are refused; none where they are not."""
    try:
        host = host_variables(answers)
        name = str(answers.get("mlflow_instance") or "")
        if not common.matches(common.DNS_LABEL, name):
            return [f"mlflow_instance is {name!r}; give the instance a name: a DNS label of lower-case letters, digits "
                    "and '-'."]
        resolve(host.__getitem__, host, name)
    except VariableError as error:
        return str(error).splitlines()
    return []
