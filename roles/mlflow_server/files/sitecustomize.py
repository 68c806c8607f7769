"""Keeps artifacts on their way through the server where mlflow_server_artifacts is `proxied`.

Since 3.15 MLflow's server tells every client to fetch artifacts by presigned URLs whenever they are in S3, and has no switch
against it. Those URLs lead to the store by the name that the server knows it by, which clients outside the cluster cannot
resolve, so that every download of theirs would fail. Python loads this file at its start; it makes the server say that it
has no such URLs, which clients have long understood.
"""

import importlib.abc
import importlib.util
import sys

MIXINS = ("MultipartUploadMixin", "MultipartDownloadMixin", "PresignedUploadMixin")


class Proxied(importlib.abc.MetaPathFinder):
    """Steps in once, when the module that answers requests is loaded."""

    def find_spec(self, name, path, target=None):
        if name != "mlflow.server.handlers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for mixin in MIXINS:
                if hasattr(module, mixin):
                    setattr(module, mixin, type("NoStoreHasThis", (), {}))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Proxied())
