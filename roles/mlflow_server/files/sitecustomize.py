"""What the server's pod needs of MLflow that no setting of MLflow gives. Python loads this file at its start.

Lists which modules of MLflow and of its libraries are changed as they are loaded, and by which function of the files
beside this one. server_hooks.py does that, and reports what a version of MLflow does not have. Where logins or the
check of the Host header would be missing, the server does not start.
"""

import os

import hook_logins
import server_hooks as hooks

hook_logins.complete_uris()
# numpy and pyarrow, which MLflow loads, start threads in each process; the server calculates nothing that needs them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
if "preload" not in hooks.DISABLED:
    hooks.add("mlflow.server", before="hook_start:environment", after="hook_start:preload")
requests_counted = os.environ.get("MLOPS_MLFLOW_METRICS") or os.environ.get("MLOPS_MLFLOW_ACCESS_LOG")
if requests_counted:
    hooks.add("mlflow.server", before="request_metrics:start")
hooks.add("mlflow.server", before="hook_checks:check")
if os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
    hooks.add("mlflow.server.handlers", after="hook_artifacts:proxied")
hooks.add("mlflow.server.fastapi_app", after="hook_artifacts:streamed")
if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
    hooks.add("mlflow.server.auth.config", after="hook_logins:administrator")
if os.environ.get("AUTH_PROXY_SECRET"):
    hooks.add("proxy_login", after="hook_logins:proxy_login")
if "nodelay" not in hooks.DISABLED:
    hooks.add("uvicorn.config", after="hook_serving:nodelay")
if "access_log" not in hooks.DISABLED:
    hooks.add("uvicorn.config", after="hook_serving:access_log")
if "batch" not in hooks.DISABLED:
    hooks.add("mlflow.store.db.utils", after="hook_database:batch")
if "ping" not in hooks.DISABLED:
    hooks.add("mlflow.store.db.utils", after="hook_database:ping")
if "autocommit" not in hooks.DISABLED:
    hooks.add("mlflow.store.db.utils", after="hook_database:autocommit")
if "messages" not in hooks.DISABLED:
    hooks.add("mlflow.server.handlers", before="hook_messages:messages")
if "log_metrics" not in hooks.DISABLED:
    hooks.add("mlflow.store.tracking.sqlalchemy_store", after="hook_metrics:log_metrics")
if "reads" not in hooks.DISABLED:
    hooks.add("mlflow.store.tracking.sqlalchemy_store", after="hook_reads:reads")
if "create_run" not in hooks.DISABLED:
    hooks.add("mlflow.store.tracking.sqlalchemy_store", after="hook_runs:create_run")
if "direct" not in hooks.DISABLED:
    hooks.add("mlflow.server.fastapi_app", after="hook_serving:direct")
if "transfers" not in hooks.DISABLED:
    hooks.add("mlflow.server.fastapi_app", after="hook_transfers:transfers")
if requests_counted:
    hooks.add("mlflow.server.fastapi_app", after="request_metrics:install")  # last: outside of what the others change
