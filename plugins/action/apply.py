# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hands Kubernetes manifests to the engine of an instance. Documented in plugins/modules/apply.py."""

from __future__ import annotations

from typing import Callable

from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import lookup_loader

from ansible_collections.mlops.mlflow.plugins.plugin_utils import (
    components, deployed, engines, gitops, health, manifests, render, templating)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import INSTANCE_OPTIONS, EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref


class ActionModule(EngineAction):
    """Renders, then lets the engine converge or remove."""

    OPTIONS = {
        **INSTANCE_OPTIONS,
        "components": {"type": "list", "elements": "str"},
        "manifests": {"type": "raw"},
        "template": {"type": "list", "elements": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "component": {"type": "str"},
        "labels": {"type": "dict", "default": {}},
        "annotations": {"type": "dict", "default": {}},
        "pod_spec": {"type": "dict", "default": {}},
        "patches": {"type": "list", "elements": "dict", "default": []},
        "patches_name": {"type": "str", "default": "patches"},
        "prune": {"type": "bool", "default": True},
        "purge": {"type": "bool", "default": False},
        "render_dir": {"type": "path"},
        "render_secrets": {"type": "str", "choices": ["omit", "plain"], "default": "omit"},
        "wait": {"type": "bool", "default": True},
        "wait_timeout": {"type": "int", "default": 600},
    }

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self._task_vars = task_vars
        described = self._task.args.get("components") is not None
        options = self.options(task_vars, described, required_one_of=[("component", "components")],
                               mutually_exclusive=[("manifests", "template", "components"),
                                                   ("component", "components")])
        if options["components"] is not None:
            return self._instance(options, task_vars)
        if options["state"] == "present" and options["manifests"] is None and options["template"] is None:
            raise AnsibleActionFail("state is present but any of the following are missing: manifests, template")
        scope = engines.Scope(options["namespace"], options["instance"], (options["component"],))
        stages = [self._given(options, scope, task_vars)] if options["state"] == "present" else []
        return self._apply(options, scope, stages)

    def _instance(self, options: dict, task_vars: dict) -> dict:
        """Components of the instance that the host's variables describe; an empty list means all."""
        model = self.resolve(task_vars)
        roles = options["components"] or [component.role for component in components.COMPONENTS]
        unknown = sorted(set(roles) - {component.role for component in components.COMPONENTS})
        if unknown:
            known = ", ".join(component.role for component in components.COMPONENTS)
            raise AnsibleActionFail(f"components holds {unknown[0]!r}, which is no component; it may hold {known}.")
        instance = model.instance
        names = tuple(components.by_role(role).name for role in roles)
        # All of them at once means whatever an instance of the name has, components of older versions included.
        scope = engines.Scope(instance.namespace, instance.name,
                              () if len(names) == len(components.COMPONENTS) else names)
        options = {**options, "engine": instance.engine, "kubeconfig": instance.kubeconfig, "context": instance.context,
                   "wait_timeout": instance.wait_timeout, "render_dir": instance.render_dir,
                   "purge": options["purge"] or model.variables.mlflow_purge_data}
        stages = []
        if options["state"] == "present":
            try:
                stages = [
                    [
                        obj
                        for component in stage
                        for obj in render.render(component, model, scope.labels(component.name))
                    ]
                    for stage in components.stages(roles)
                ]
            except manifests.ManifestError as error:
                raise AnsibleActionFail(str(error)) from None
        return self._apply(options, scope, stages, lambda live: deployed.refusal(live, model))

    def _apply(self, options: dict, scope: engines.Scope, stages: list[list[dict]],
               refusal: Callable[[dict[Ref, dict]], str] | None = None) -> dict:
        if options["render_dir"]:
            return self._render(options, scope, stages)
        with self.engine(options, scope) as engine:
            if options["state"] == "present":
                outcome = engines.converge(engine, stages, self._task.check_mode, options["wait"],
                                           options["wait_timeout"],
                                           options["prune"], refusal)
            else:
                outcome = engines.remove(engine, self._task.check_mode, options["purge"], options["wait_timeout"])
        for text in outcome.warnings:
            self.log(text)
        result = {"changed": outcome.changed, "objects": outcome.actions, "messages": outcome.warnings}
        if self._task.diff:
            result["diff"] = outcome.diff
        return result

    def _render(self, options: dict, scope: engines.Scope, stages: list[list[dict]]) -> dict:
        """Write what would be applied to a repository on the controller."""
        objects = [obj for stage in stages for obj in stage]
        for obj in objects:
            if obj["kind"] not in engines.Engine.default_namespace_kinds:
                obj["metadata"].setdefault("namespace", scope.namespace)
        described = options["components"] is not None
        settings = gitops.Settings(options["render_dir"], options["render_secrets"])
        live, verification = None, None
        if described:
            model = self.resolve(self._task_vars)
            settings = gitops.settings(model)
            live = self._live(options, scope) if model.variables.mlflow_render_adopt else None
            if "server" in (scope.components or ("server",)):
                present = options["state"] == "present" and not model.mlflow_server.closed_because
                verification = health.verification(model, scope.labels("verification")) if present else []
        repository = gitops.Repository(settings, scope, live)
        try:
            changed = repository.write(objects, verification, self._task.check_mode)
        except (gitops.GitopsError, manifests.ManifestError) as error:
            raise templating.Failure(str(error)) from None
        verb = "Rendered to" if objects else "Removed from"
        messages = [f"{verb} {repository.folder}; nothing was applied.", *repository.messages]
        return {"changed": changed, "messages": messages if objects or changed else [], "objects": [
            {"kind": obj["kind"], "name": obj["metadata"]["name"], "namespace": scope.namespace, "action": "rendered"}
            for obj in objects]}

    def _live(self, options: dict, scope: engines.Scope) -> Callable[[set[Ref]], dict[Ref, dict]]:
        """Reads objects of the running instance."""
        def read(refs: set[Ref]) -> dict[Ref, dict]:
            with self.engine(options, scope) as engine:
                return engine.read(refs, set())

        return read

    def _given(self, options: dict, scope: engines.Scope, task_vars: dict) -> list[dict]:
        """The objects that the task gives, with what it says about all of them."""
        source = (
            options["manifests"] if options["template"] is None else self._templates(options["template"], task_vars)
        )
        try:
            objects = manifests.load(source)
            manifests.complete_pods(objects, options["pod_spec"])
            manifests.patch(objects, options["patches"], options["patches_name"])
        except manifests.ManifestError as error:
            raise AnsibleActionFail(str(error)) from None
        manifests.label(objects, {**options["labels"], **scope.labels(scope.components[0])}, options["annotations"])
        return objects

    def _templates(self, names: list[str], task_vars: dict) -> list[str]:
        """Templates rendered here rather than by a lookup in the arguments, so that secrets in them are no task
        argument."""
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        variables = {**task_vars, "ansible_search_path": self._task.get_search_path()}
        texts = lookup.run(names, variables=variables, trim_blocks=True, lstrip_blocks=True)
        return [str(text) for text in texts if text]  # a template that renders nothing gives None
