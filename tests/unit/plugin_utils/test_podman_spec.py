# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a pod template means to podman."""

from __future__ import annotations

import copy
import datetime
import http.server
import ssl
import subprocess
import threading

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_spec

SCOPE = engines.Scope("team", "mlflow", ("server",))
LABELS = {"app.kubernetes.io/instance": "mlflow", "app.kubernetes.io/component": "server"}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "annotations": {"mlops.mlflow/publish": "127.0.0.1:5000"}},
    "spec": {"selector": LABELS, "ports": [{"port": 5000, "targetPort": "http"}]},
}
CONTAINER = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 5000}]}


def pods(container=None, kind="Deployment", services=(SERVICE,), controllers=("memory", "cpu"), replicas=1, **spec):
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "w", "namespace": "team", "labels": {}},
                "spec": {
        "replicas": replicas, "template": {"metadata": {"labels": LABELS},
                                           "spec": {"containers": [{**CONTAINER, **(container or {})}], **spec}}}}
    around = podman_spec.Context(
        scope=SCOPE,
        services=copy.deepcopy(list(services)),
        configmaps="/state/configmaps",
        scratch="/state/scratch",
        hosts="/state/hosts",
        secret_keys={"login": ["password", "username"]},
        controllers=set(controllers),
        healthchecks=True,
    )
    return podman_spec.pods(workload, around)


def arguments(*args, **kwargs):
    (pod,) = pods(*args, **kwargs)
    return pod.containers[-1][1]


def after(flag, found):
    return [found[i + 1] for i, part in enumerate(found) if part == flag]


def test_a_service_is_a_name_and_a_published_port():
    (pod,) = pods()
    assert {"web", "web.team", "web.team.svc", "web.team.svc.cluster.local"} <= set(
        after("--network-alias", pod.create)
    )
    assert after("--publish", pod.create) == ["127.0.0.1:5000:5000"] and after("--network", pod.create) == ["team"]


def test_only_the_first_replica_holds_the_port():
    first, second = pods(replicas=2)
    assert after("--publish", first.create) and not after("--publish", second.create)
    assert first.hostname == "w-0" and second.hostname == "w-1" and first.fingerprint != second.fingerprint


def test_a_secret_is_never_an_argument():
    env = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}]
    (secret,) = after("--secret", arguments({"env": env}))
    assert secret.endswith(",type=env,target=P")
    with pytest.raises(engines.EngineError, match=r"puts \$\(P\), a secret, into an argument"):
        arguments({"env": env, "args": ["--password=$(P)"]})


def test_variables_are_expanded_as_kubernetes_does():
    found = arguments({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}],
                       "args": ["$(B)", "$(NONE)", "$$(A)"]})
    assert found[-3:] == ["12", "$(NONE)", "$(A)"] and "B=12" in found


def test_what_a_container_may_do():
    found = arguments({"securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                           "capabilities": {"drop": ["ALL"]}}},
                      securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 999})
    assert (
        after("--user", found) == ["1000:1000"]
        and after("--group-add", found) == ["999"]
        and after("--cap-drop", found) == ["ALL"]
    )
    assert "--read-only" in found and "no-new-privileges" in found


def test_limits_follow_what_the_machine_can():
    resources = {"resources": {"limits": {"memory": "1Gi", "cpu": "500m"}}}
    assert after("--memory", arguments(resources)) == [str(2**30)] and after("--cpus", arguments(resources)) == ["0.5"]
    assert not after("--memory", arguments(resources, controllers=()))


def test_volumes():
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("claim", "empty", "memory", "config", "secret")]
    volumes = [{"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "empty", "emptyDir": {}},
               {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
               {"name": "config", "configMap": {"name": "conf"}},
               {"name": "secret", "secret": {"secretName": "login"}}]
    (pod,) = pods({"volumeMounts": mounts}, volumes=volumes)
    found = pod.containers[-1][1]
    assert "data:/claim:rw,nocopy" in after("--volume",
                                            found) and "/state/configmaps/conf:/config:ro,z" in after("--volume", found)
    assert pod.scratch == [f"/state/scratch/{pod.name}/empty"]
    assert after("--mount", found) == ["type=tmpfs,destination=/memory,tmpfs-mode=1777,tmpfs-size=1048576"]
    assert sorted(part.split("target=")[1] for part in after("--secret", found)) == [
        "/secret/password,mode=0400",
        "/secret/username,mode=0400",
    ]


@pytest.mark.parametrize("container, spec, words", [
    ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"volumes": [{"name": "v", "csi": {}}]},
     "of type csi, which podman has no counterpart for"),
    ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {}, "mounts 'v', which its pod has no volume for"),
    ({"envFrom": [{"configMapRef": {"name": "c"}}]}, {}, "list the variables in env"),
    ({"ports": [{"name": "http", "containerPort": 80}]}, {}, "must be its pods' port"),
])
def test_what_one_machine_cannot_do_is_said(container, spec, words):
    with pytest.raises(engines.EngineError, match=words):
        pods(container, **spec)


@pytest.mark.parametrize("secure", [False, True])
def test_a_probe_asks_as_a_kubelet_does(tmp_path, secure):
    """Success below 400, whichever CA signed the certificate."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        codes = []
        for path in ("/", "/nowhere"):
            probe = {"httpGet": {"path": path, "port": server.server_port, **({"scheme": "HTTPS"} if secure else {})},
                     "timeoutSeconds": 5}
            codes.append(subprocess.run(podman_spec.probe_command(probe, CONTAINER), capture_output=True,
                                        check=False).returncode)
        server.shutdown()
    assert codes[0] == 0 and codes[1] != 0


def certificate(folder):
    """A certificate that nobody has signed, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return path
