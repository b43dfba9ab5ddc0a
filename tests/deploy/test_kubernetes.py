"""What is shipped for Kubernetes, rendered and held against Kubernetes's schemas and what the server is and does.

A guard is a rule that every overlay keeps. Each is also shown a manifest that breaks it.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import kubernetes_validate
import pytest
import yaml

import service
from service.frontend.operations import operations, public
from service.settings import Settings
from service.supervisor.lives import ENGINE_DRAIN_SECONDS
from tests.support.kubectl import OVERLAYS, SHIPPED, Object, of_kind, render, render_folder, the, validate_custom
from tests.support.manifests import copies
from tests.support.prometheus import MISSING, is_missing, shipped_rules

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
#: The oldest has every field that is used; the newest is the newest there is.
VERSIONS = ["1.27", "1.31", "1.34", "1.37"]
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
#: What the supervisor waits for front ends and for engines beyond the limits that it gives them (seconds).
BEYOND = 2 + ENGINE_DRAIN_SECONDS + 1
MIB = 1 << 20
UNITS = {"": 1, "Mi": MIB, "Gi": 1 << 30}


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity such as `256Mi`."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", text).groups()
    return int(number) * UNITS[unit]


def pod(objects: list[Object]) -> Object:
    return the(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects: list[Object]) -> Object:
    (only,) = pod(objects)["containers"]
    return only


def environment(objects: list[Object]) -> dict[str, str]:
    """What the container starts with: the image's variables, and over them those of its ConfigMaps."""
    found = dict(re.findall(r"(GRADLESS_\w+)=(\S+)", DOCKERFILE))
    data = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    for source in container(objects)["envFrom"]:
        found |= data[source["configMapRef"]["name"]]
    return found | {each["name"]: each["value"] for each in container(objects).get("env", [])}


def settings(objects: list[Object]) -> Settings:
    """With which the server runs; what the manifests leave out is as settings.py has it."""
    variables = {name.removeprefix("GRADLESS_").lower(): value for name, value in environment(objects).items()}
    words = " ".join(container(objects).get("args", [])).replace("=", " ").split()[1:]
    flags = {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
    return Settings(**variables | flags)


def paths_of(router: Any) -> set[str]:
    return {route.path for route in router.routes}


PUBLIC = paths_of(public(cast(Any, None), lambda: False))
OPERATIONS = paths_of(operations(cast(Any, None), lambda: False, lambda: None, Path(), cast(Any, None), None))


# What an overlay must keep, whatever it is for.

Guard = Callable[[list[Object]], None]
Break = Callable[[list[Object]], object]
GUARDS: dict[str, Guard] = {}
BREAKS: list[tuple[str, str, Break]] = []


def guard(check: Guard) -> Guard:
    GUARDS[check.__name__] = check
    return check


def broken_by(check: Guard, overlay: str = "cpu") -> Callable[[Break], Break]:
    """Marks a change of an overlay that the guard must notice."""

    def mark(change: Break) -> Break:
        BREAKS.append((check.__name__, overlay, change))
        return change

    return mark


@guard
def variables_are_settings(objects):
    fields = {f"GRADLESS_{name.upper()}" for name in Settings.model_fields}
    assert set(environment(objects)) <= fields
    assert settings(objects).host == "0.0.0.0"


@broken_by(variables_are_settings)
def a_setting_that_there_is_not(objects):
    container(objects)["env"] = [{"name": "GRADLESS_DRAIN_SECONDS", "value": "5"}]


@guard
def the_grace_is_longer_than_a_drain_may_take(objects):
    wanted = settings(objects)
    drain = wanted.drain_delay_seconds + wanted.drain_limit_seconds + BEYOND
    assert pod(objects)["terminationGracePeriodSeconds"] > drain
    assert wanted.drain_delay_seconds >= 5  # there is no preStop hook that waits for the balancers
    assert wanted.drain_limit_seconds * 1000 >= wanted.timeout_ms


@broken_by(the_grace_is_longer_than_a_drain_may_take)
def a_longer_drain(objects):
    container(objects)["args"] = ["serve", "--drain-limit-seconds", "60"]


@broken_by(the_grace_is_longer_than_a_drain_may_take)
def a_shorter_grace(objects):
    pod(objects)["terminationGracePeriodSeconds"] = 40


@broken_by(the_grace_is_longer_than_a_drain_may_take)
def a_drain_of_the_defaults(objects):
    container(objects)["envFrom"] = []


@guard
def a_release_is_not_called_failed_before_the_server_gives_up(objects):
    probe = container(objects)["startupProbe"]
    start = probe["periodSeconds"] * probe["failureThreshold"]
    wanted = settings(objects).start_limit_seconds + start
    assert the(objects, "Deployment")["spec"]["progressDeadlineSeconds"] > wanted


@broken_by(a_release_is_not_called_failed_before_the_server_gives_up)
def a_deadline_of_ten_minutes(objects):
    the(objects, "Deployment")["spec"]["progressDeadlineSeconds"] = 600


def asked(probe: Object) -> tuple[str, int]:
    """The path and the port of a probe."""
    if "exec" in probe:
        port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", probe["exec"]["command"][-1]).groups()
        return path, int(port)
    return probe["httpGet"]["path"], probe["httpGet"]["port"]


@guard
def probes_ask_what_the_server_answers(objects):
    port = settings(objects).port
    probes = {kind: asked(container(objects)[f"{kind}Probe"]) for kind in ("startup", "readiness", "liveness")}
    assert probes == {
        "startup": ("/health/live", port),
        "readiness": ("/health/ready", port),
        "liveness": ("/health/live", port),  # a model that cannot be served is no reason to start again
    }
    assert {path for path, _ in probes.values()} <= PUBLIC


@broken_by(probes_ask_what_the_server_answers)
def a_path_that_there_is_not(objects):
    container(objects)["readinessProbe"]["httpGet"]["path"] = "/healthz"


@broken_by(probes_ask_what_the_server_answers)
def a_liveness_that_looks_at_models(objects):
    container(objects)["livenessProbe"]["httpGet"]["path"] = "/health/ready"


@broken_by(probes_ask_what_the_server_answers, "podman")
def a_port_that_nobody_listens_on(objects):
    container(objects)["livenessProbe"]["exec"]["command"][-1] = "urlopen('http://127.0.0.1:8080/health/live')"


@guard
def ports_are_those_of_the_settings(objects):
    wanted = {"http": settings(objects).port, "operations": settings(objects).operations_port}
    assert {each["name"]: each["containerPort"] for each in container(objects)["ports"]} == wanted
    assert {each["targetPort"]: each["port"] for each in the(objects, "Service")["spec"]["ports"]} == wanted


@broken_by(ports_are_those_of_the_settings)
def another_port(objects):
    container(objects)["env"] = [{"name": "GRADLESS_PORT", "value": "9090"}]


@guard
def the_pod_may_do_nothing_that_it_need_not(objects):
    spec, only = pod(objects), container(objects)
    user = int(re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[-1])
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    account = the(objects, "ServiceAccount")
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    assert not account["automountServiceAccountToken"]
    assert not spec["automountServiceAccountToken"]
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    assert all(volume.keys() & {"emptyDir", "configMap"} for volume in spec["volumes"])


@broken_by(the_pod_may_do_nothing_that_it_need_not)
def a_user_that_the_image_lacks(objects):
    pod(objects)["securityContext"]["runAsUser"] = 1000


@broken_by(the_pod_may_do_nothing_that_it_need_not)
def a_file_system_that_can_be_written(objects):
    container(objects)["securityContext"]["readOnlyRootFilesystem"] = False


@broken_by(the_pod_may_do_nothing_that_it_need_not)
def a_token(objects):
    pod(objects)["automountServiceAccountToken"] = True


@guard
def no_service_is_taken_for_a_setting(objects):
    """Kubernetes tells a pod of each Service in variables, which for one named gradless begin as settings do."""
    assert pod(objects).get("enableServiceLinks") is False


@broken_by(no_service_is_taken_for_a_setting)
def variables_of_the_services(objects):
    pod(objects).pop("enableServiceLinks")


def mounts(objects: list[Object], kind: str) -> dict[str, Object]:
    """By the path where it is mounted, each volume of a kind."""
    volumes = {each["name"]: each.get(kind) for each in pod(objects)["volumes"]}
    paths = {each["mountPath"]: volumes[each["name"]] for each in container(objects)["volumeMounts"]}
    return {path: volume for path, volume in paths.items() if volume is not None}


@guard
def what_is_written_has_a_volume_with_a_limit(objects):
    """That it is all that is written is shown in test_writes.py."""
    assert "TMPDIR" not in DOCKERFILE
    assert mounts(objects, "emptyDir").keys() == {"/tmp"}
    assert mounts(objects, "emptyDir")["/tmp"].keys() == {"medium", "sizeLimit"}
    assert settings(objects).cache == Path("/opt/gradless/cache")  # the image's packages stay in sight


@broken_by(what_is_written_has_a_volume_with_a_limit)
def no_tmp(objects):
    container(objects)["volumeMounts"].pop(0)


@broken_by(what_is_written_has_a_volume_with_a_limit)
def a_tmp_without_a_limit(objects):
    pod(objects)["volumes"][0]["emptyDir"] = {"medium": "Memory"}


@guard
def models_are_where_the_server_looks(objects):
    data = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    shipped = {folder.parent.name for folder in (ROOT / "models").glob("*/model.toml")}
    mounted = {}
    for path, volume in mounts(objects, "configMap").items():
        assert Path(path).parent == settings(objects).models
        mounted[Path(path).name] = data[volume["name"]]
    assert mounted.keys() == shipped
    for name, files in mounted.items():
        assert files.keys() == {file.name for file in (ROOT / "models" / name).glob("*.*")}
        assert all(content == (ROOT / "models" / name / file).read_text() for file, content in files.items())
    assert settings(objects).default_model in mounted


@broken_by(models_are_where_the_server_looks)
def a_model_where_nobody_looks(objects):
    container(objects)["volumeMounts"][1]["mountPath"] = "/srv/models/efficientnet_lite0"


@guard
def memory_holds_two_engines(objects):
    resources = container(objects)["resources"]
    assert resources["requests"] == resources["limits"]
    measured = the(objects, "Deployment")["metadata"].get("annotations", {})
    if "nvidia.com/gpu" in resources["limits"]:
        assert not measured  # nobody has
        return
    one, two = (int(measured[f"gradless/mib-with-{count}"]) * MIB for count in ("one-engine", "two-engines"))
    threads = settings(objects).decode_threads or int(resources["limits"]["cpu"])
    decoding = threads * settings(objects).max_pixels * 3
    tmp = quantity(mounts(objects, "emptyDir")["/tmp"]["sizeLimit"])
    assert one < two
    assert quantity(resources["limits"]["memory"]) > two + decoding + tmp


@broken_by(memory_holds_two_engines)
def memory_for_one_engine(objects):
    for of in ("requests", "limits"):
        container(objects)["resources"][of] = {"cpu": "2", "memory": "1536Mi"}


@broken_by(memory_holds_two_engines)
def larger_pictures(objects):
    container(objects)["env"] = [{"name": "GRADLESS_MAX_PIXELS", "value": "100000000"}]


@guard
def the_image_has_a_package_for_its_threads(objects):
    if settings(objects).device == "cpu":
        compiled = re.search(r'^ARG COMPILE_THREADS="([\d ]+)"', DOCKERFILE, re.MULTILINE)[1].split()
        assert settings(objects).threads == 0  # as many as the limit has cores
        assert container(objects)["resources"]["limits"]["cpu"] in compiled


@broken_by(the_image_has_a_package_for_its_threads)
def three_cores(objects):
    container(objects)["resources"]["limits"]["cpu"] = "3"


@guard
def the_image_has_a_name_and_a_tag(objects):
    name, _, tag = container(objects)["image"].rpartition(":")
    assert name in ("gradless", "localhost/gradless")
    assert tag in ("local", "cuda")


@broken_by(the_image_has_a_name_and_a_tag)
def the_latest_image(objects):
    container(objects)["image"] = "gradless"


@guard
def a_gpu_is_asked_for_where_one_is_used(objects):
    uses = settings(objects).device.startswith("cuda")
    assert settings(objects).device != "auto"
    assert ("nvidia.com/gpu" in container(objects)["resources"]["limits"]) == uses


@broken_by(a_gpu_is_asked_for_where_one_is_used, "gpu")
def no_gpu(objects):
    container(objects)["resources"]["limits"].pop("nvidia.com/gpu")


def fewest(objects: list[Object]) -> int:
    """Replicas that there are at least."""
    if scalers := of_kind(objects, "HorizontalPodAutoscaler"):
        return scalers[0]["spec"]["minReplicas"]
    if scalers := of_kind(objects, "ScaledObject"):
        return scalers[0]["spec"]["minReplicaCount"]
    return the(objects, "Deployment")["spec"]["replicas"]


@guard
def some_pod_always_answers(objects):
    """Through a rollout, and while nodes are drained; podman has neither."""
    if "hostPort" in container(objects)["ports"][0]:
        return
    rollout = the(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert fewest(objects) > rollout["maxUnavailable"]
    assert rollout["maxUnavailable"] + rollout["maxSurge"] == 1
    assert (rollout["maxUnavailable"] == 0) == (settings(objects).device == "cpu")
    assert fewest(objects) > the(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] > 0


@broken_by(some_pod_always_answers)
def one_replica(objects):
    the(objects, "Deployment")["spec"]["replicas"] = 1


@broken_by(some_pod_always_answers, "autoscale")
def scaled_down_to_one(objects):
    the(objects, "HorizontalPodAutoscaler")["spec"]["minReplicas"] = 1


@broken_by(some_pod_always_answers)
def a_budget_of_nothing(objects):
    the(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] = 0


def selectors(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every selector of the server's pods."""
    yield "Deployment", the(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    yield "Service", the(objects, "Service")["spec"]["selector"]
    yield "PodDisruptionBudget", the(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    yield "NetworkPolicy", the(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for constraint in pod(objects)["topologySpreadConstraints"]:
        yield "topologySpreadConstraints", constraint["labelSelector"]["matchLabels"]


@guard
def selectors_find_the_pods_and_no_others(objects):
    labels = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "gradless", "app.kubernetes.io/component": "server"}
    assert wanted.items() <= labels.items()
    for whose, selector in selectors(objects):
        assert selector == wanted, whose


@broken_by(selectors_find_the_pods_and_no_others)
def a_policy_for_every_pod_of_the_namespace(objects):
    the(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] = {}


@broken_by(selectors_find_the_pods_and_no_others)
def pods_that_a_service_does_not_find(objects):
    the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/component")


@guard
def the_network_lets_in_requests_and_scrapes_and_nothing_out(objects):
    spec = the(objects, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert spec["ingress"] == [
        {"from": [{"podSelector": {}}], "ports": [{"port": settings(objects).port}]},
        {"from": [monitoring], "ports": [{"port": settings(objects).operations_port}]},
    ]


@broken_by(the_network_lets_in_requests_and_scrapes_and_nothing_out)
def a_port_that_nobody_gets_to(objects):
    the(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"] = [{"port": 80}]


@broken_by(the_network_lets_in_requests_and_scrapes_and_nothing_out)
def a_way_out(objects):
    the(objects, "NetworkPolicy")["spec"]["policyTypes"] = ["Ingress"]


@guard
def everything_says_whose_it_is(objects):
    for each in objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "gradless", each["kind"]
    labels = the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/version"] == service.__version__


@broken_by(everything_says_whose_it_is)
def another_version(objects):
    the(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/version"] = "0.0.9"


JOB = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]["job_name"]


@guard
def prometheus_finds_every_pod(objects):
    for monitor in (each["spec"] for each in of_kind(objects, "ServiceMonitor")):
        service = the(objects, "Service")
        labels = service["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert labels[monitor["jobLabel"]] == JOB
        (endpoint,) = monitor["endpoints"]
        ports = {each["name"]: each["port"] for each in service["spec"]["ports"]}
        assert ports[endpoint["port"]] == settings(objects).operations_port
        assert endpoint["path"] in OPERATIONS


@broken_by(prometheus_finds_every_pod, "monitoring")
def a_job_that_no_alert_knows(objects):
    the(objects, "Service")["metadata"]["labels"]["app.kubernetes.io/name"] = "pictures"


@broken_by(prometheus_finds_every_pod, "monitoring")
def a_port_without_metrics(objects):
    the(objects, "ServiceMonitor")["spec"]["endpoints"][0]["port"] = "http"


ADAPTER = yaml.safe_load((SHIPPED / "overlays" / "autoscale" / "prometheus-adapter.yaml").read_text())


def adapted(metric: Object) -> str:
    """The query that prometheus-adapter makes of an HPA's external metric."""
    (rule,) = [each for each in ADAPTER["rules"]["external"] if each["name"]["as"] == metric["name"]]
    matchers = ",".join(f'{label}="{value}"' for label, value in metric["selector"]["matchLabels"].items())
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"])
    return query.replace("<<.LabelMatchers>>", matchers)


def scaling(objects: list[Object]) -> list[dict[str, Any]]:
    """What each scaler of the Deployment does, in the same words."""
    name = the(objects, "Deployment")["metadata"]["name"]
    found = []
    for spec in (each["spec"] for each in of_kind(objects, "HorizontalPodAutoscaler")):
        (metric,) = (each["external"] for each in spec["metrics"])
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert metric["target"]["type"] == "AverageValue"
        query, target = adapted(metric["metric"]), metric["target"]["averageValue"]
        replicas = spec["minReplicas"], spec["maxReplicas"]
        found.append({"query": query, "target": target, "replicas": replicas, "behavior": spec["behavior"]})
    for spec in (each["spec"] for each in of_kind(objects, "ScaledObject")):
        (trigger,) = spec["triggers"]
        assert spec["scaleTargetRef"] == {"name": name}
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        query, target = trigger["metadata"]["query"], trigger["metadata"]["threshold"]
        replicas = spec["minReplicaCount"], spec["maxReplicaCount"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        found.append({"query": query, "target": target, "replicas": replicas, "behavior": behavior})
    return found


@guard
def the_replicas_are_one_scalers(objects):
    scalers = scaling(objects)
    assert len(scalers) + ("replicas" in the(objects, "Deployment")["spec"]) == 1


@broken_by(the_replicas_are_one_scalers, "autoscale")
def two_scalers(objects):
    objects += of_kind(render("keda"), "ScaledObject")


@broken_by(the_replicas_are_one_scalers, "keda")
def a_count_that_each_apply_sets(objects):
    the(objects, "Deployment")["spec"]["replicas"] = 2


@guard
def a_scaler_asks_for_what_is_recorded_where_it_runs(objects):
    for scaler in scaling(objects):
        recorded = [
            rule["record"]
            for group in the(objects, "PrometheusRule")["spec"]["groups"]
            for rule in group["rules"]
            if "record" in rule
        ]
        query = re.fullmatch(r'sum\(([\w:]+)\{job="(\w+)"\}\)', scaler["query"])
        assert query, scaler["query"]
        assert query[1] in recorded
        assert "queue_seconds" in query[1]
        assert query[2] == JOB


@broken_by(a_scaler_asks_for_what_is_recorded_where_it_runs, "autoscale")
def a_series_that_nobody_records(objects):
    for group in the(objects, "PrometheusRule")["spec"]["groups"]:
        group["rules"] = [rule for rule in group["rules"] if "rate1m" not in rule.get("record", "")]


@broken_by(a_scaler_asks_for_what_is_recorded_where_it_runs, "keda")
def the_processor(objects):
    metadata = the(objects, "ScaledObject")["spec"]["triggers"][0]["metadata"]
    metadata["query"] = 'sum(rate(process_cpu_seconds_total{job="gradless"}[1m]))'


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", GUARDS)
def test_every_overlay_keeps(name, overlay):
    GUARDS[name](render(overlay))


@pytest.mark.parametrize(("name", "overlay", "change"), [pytest.param(*each, id=each[2].__name__) for each in BREAKS])
def test_a_guard_notices(name, overlay, change):
    objects = render(overlay)
    GUARDS[name](objects)
    change(objects)
    with pytest.raises(AssertionError):
        GUARDS[name](objects)


def test_every_guard_has_been_broken():
    assert {name for name, _, _ in BREAKS} == GUARDS.keys()


# Schemas


def validate(resource: Object, version: str) -> None:
    """Against the schema of a version of Kubernetes, or of those who made the kind.

    Raises:
        jsonschema.ValidationError: it does not fit, or has a field that there is not.
    """
    if resource["kind"] in CUSTOM:
        validate_custom(resource)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay, version):
    for each in render(overlay):
        validate(each, version)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each table in an object."""
    if isinstance(value, dict):
        yield way
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*way, key))


#: Tables whose keys are anybody's.
FREE = {"labels", "annotations", "data", "matchLabels", "selector", "limits", "requests", "metadata"}


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "HorizontalPodAutoscaler", *sorted(CUSTOM)])
def test_a_field_that_there_is_not_is_noticed_wherever_it_is(kind):
    overlay = "keda" if kind == "ScaledObject" else "autoscale"
    found = the(render(overlay), kind)
    ways = [way for way in places(found) if not FREE & set(way[-1:])]
    assert len(ways) >= 3
    for way in ways:
        changed = table = copy.deepcopy(found)
        for key in way:
            table = table[key]
        table["notThere"] = 1
        with pytest.raises(jsonschema.ValidationError):
            validate(changed, VERSIONS[-1])


# What a reader makes of it


def test_the_kustomization_of_the_readme_is_one(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", (SHIPPED / "README.md").read_text(), re.DOTALL)[1]
    own = yaml.safe_load(text)
    own["resources"] = [os.path.relpath(ROOT / path.removeprefix("…/"), tmp_path) for path in own["resources"]]
    own["images"][0] |= {"newName": "localhost/mine", "newTag": "1"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    objects = render_folder(tmp_path)
    assert {each["metadata"]["namespace"] for each in objects} == {"pictures"}
    assert container(objects)["image"] == "localhost/mine:1"
    assert settings(objects).access_log
    for name in GUARDS.keys() - {"the_image_has_a_name_and_a_tag"}:
        GUARDS[name](objects)


# What is held twice


def test_what_is_made_of_other_files_is_as_make_manifests_makes_it():
    for file, content in copies().items():
        assert file.read_text() == content, f"{file.name}: run make manifests"


def test_the_prometheus_rule_is_the_rule_files():
    groups = the(render("monitoring"), "PrometheusRule")["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == shipped_rules()


def test_both_scalers_do_the_same():
    assert scaling(render("autoscale")) == scaling(render("keda"))
    assert len(scaling(render("keda"))) == 1


@pytest.mark.skipif(is_missing(), reason=MISSING)
def test_what_a_scaler_asks_is_how_many_requests_wait_over_all_replicas(tmp_path):
    sample = 'gradless_stage_duration_seconds_sum{job="gradless", stage="STAGE", instance="INSTANCE", model="m"}'
    series = [
        {"series": sample.replace("STAGE", stage).replace("INSTANCE", instance), "values": f"0+{rise}x20"}
        for stage, instance, rise in [("queue", "a", 15), ("queue", "b", 30), ("forward", "a", 600)]
    ]
    rules = sorted(str(file) for file in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
    (scaler,) = scaling(render("keda"))
    values = [{"expr": scaler["query"], "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 3}]}]
    test = {"interval": "15s", "input_series": series, "promql_expr_test": values}
    file = tmp_path / "scaler.yml"
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
