# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a component of an instance declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Iterator

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe


Check = Callable[["Variables", "Model"], Iterator[str]]


@dataclass(frozen=True)
class Network:
    """Which connections a component's pods take part in; from it the shared template writes the NetworkPolicy.

    Attributes:
        name: end of the policy's name, where a component has several.
        ingress: rules of a NetworkPolicy's ``ingress``.
        egress: rules of its ``egress``.
        components: labels of the pods that it is for, where they are more than the component's own.
        egress_closed: whether connections from the pods are restricted at all.
        always: whether the policy is rendered without mlflow_network_policy, too.
        pods: labels of the pods that it is for, where an operator makes them.
    """

    ingress: list[dict] = field(default_factory=list)
    egress: list[dict] = field(default_factory=list)
    components: tuple[str, ...] = ()
    egress_closed: bool = True
    always: bool = False
    name: str = ""
    pods: dict = field(default_factory=dict)


class Component:
    """One part of an instance: a role with templates, and this declaration.

    Attributes:
        name: value of ``app.kubernetes.io/component``; Services and workloads are called INSTANCE-NAME.
        role: the role, whose name is the prefix of its variables.
        title: how reports call it.
        needs: roles of the components that must be ready before this one is put.
        multiline: its text variables that may have more than one line (certificates, keys in JSON).
        secrets: its variables whose values are secret.
        separated: its lists of names that may be given as text, with commas or line breaks between them.
    """

    name = ""
    role = ""
    title = ""
    needs: tuple[str, ...] = ()
    multiline: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    separated: tuple[str, ...] = ()

    def resolve(self, v: Variables, model: Model) -> Any:
        """What follows from the variables, for the component's templates and for others; those that it needs are
        resolved before."""
        return None

    def checks(self) -> list[Check]:
        """Its methods that check variables: ``check``, and all whose names begin with ``_check_``, in the order of the
        class.

        Each takes the variables and the model, and yields a sentence for each combination that cannot work. They run
        one by one, so that a fault in one hides no sentence of the others.
        """
        return [getattr(self, name) for name in vars(type(self)) if name == "check" or name.startswith("_check_")]

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        """A sentence for each variable that asks for what the instance's engine cannot do; asked when nothing else is
        wrong."""
        return iter(())

    def warnings(self, v: Variables, model: Model) -> Iterator[str]:
        """A sentence for each variable that works, but has a risk that its user should know of."""
        return iter(())

    def templates(self, v: Variables, model: Model) -> list[str]:
        """The templates of the role that are rendered."""
        return []

    def context(self, v: Variables, model: Model) -> dict[str, Any]:
        """Further values for its templates, by name: what takes long, and is made when they are rendered only."""
        return {}

    def images(self, v: Variables, model: Model) -> list[str]:
        """Images that role images builds for it, where the instance builds its images."""
        return []

    def network(self, v: Variables, model: Model) -> Network | list[Network] | None:
        """Its connections, one entry for each kind of its pods, or None where only the instance's default policy is
        for it."""
        return None

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        """What is measured of it, from inside the server's pod."""
        return []

    def status(self, v: Variables, model: Model, report: dict) -> list[str]:
        """Lines of the status panel about it, below its verdict."""
        return []
