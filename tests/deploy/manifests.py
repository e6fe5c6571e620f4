"""What no schema knows of deploy/: names that must be the same in two places, rights, and settings that
have to fit each other. Arguments: what kustomize has built. Prints what is right, and what is not."""

import pathlib
import re
import sys
import tomllib

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
WRONG = []

# The part of the Prometheus operator's ServiceMonitor that is used here (monitoring.coreos.com/v1).
SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["selector", "endpoints"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
                },
                "endpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                            "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                        },
                    },
                },
            },
        }
    },
}


def check(what, holds, found=""):
    """Takes note of what does not hold."""
    if not holds:
        WRONG.append(f"{what}{f': {found}' if found else ''}")


def seconds(text):
    """A duration of the settings or of a manifest."""
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|min|m|h)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600}[unit]


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def restricted(where, pod):
    """The restricted Pod Security Standard, and a root that can't be written."""
    context = pod.get("securityContext", {})
    check(f"{where}: runAsNonRoot", context.get("runAsNonRoot") is True)
    check(f"{where}: its user is 65532", context.get("runAsUser") == 65532)
    check(f"{where}: seccomp", context.get("seccompProfile") == {"type": "RuntimeDefault"})
    check(f"{where}: no token of the cluster", pod.get("automountServiceAccountToken") is False)
    for container in pod["containers"]:
        inner = container.get("securityContext", {})
        check(f"{where}: no more privileges", inner.get("allowPrivilegeEscalation") is False)
        check(f"{where}: root is read-only", inner.get("readOnlyRootFilesystem") is True)
        check(f"{where}: no capability", inner.get("capabilities") == {"drop": ["ALL"]})
        check(f"{where}: memory is bounded", "memory" in container["resources"]["limits"])
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            check(f"{where}: {kind}", kind in container)
    kinds = {next(key for key in volume if key != "name") for volume in pod["volumes"]}
    check(f"{where}: its volumes", kinds <= {"configMap", "secret"}, kinds)


def kubernetes(path):
    where = pathlib.Path(path).stem
    all_of = list(yaml.safe_load_all(pathlib.Path(path).read_text()))
    of = lambda kind: [each for each in all_of if each["kind"] == kind]
    (stateful,) = of("StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    labels = stateful["spec"]["template"]["metadata"]["labels"].items()
    restricted(where, pod)
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    # Who selects the pod, and by which port.
    check(f"{where}: the set selects its pods", stateful["spec"]["selector"]["matchLabels"].items() <= labels)
    for service in of("Service"):
        name = service["metadata"]["name"]
        check(f"{where}: Service {name} selects the pod", service["spec"]["selector"].items() <= labels)
        for port in service["spec"]["ports"]:
            check(f"{where}: Service {name} has a port", port["targetPort"] in ports, port["targetPort"])
    check(f"{where}: serviceName is a Service", stateful["spec"]["serviceName"] in [s["metadata"]["name"] for s in of("Service")])
    (budget,) = of("PodDisruptionBudget")
    check(f"{where}: the budget is the pod's", budget["spec"]["selector"]["matchLabels"].items() <= labels)
    (policy,) = of("NetworkPolicy")
    selected = policy["spec"]["podSelector"].get("matchLabels", {})
    check(f"{where}: the network policy is the pod's", selected.items() <= labels)
    check(f"{where}: both directions", set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"})
    for rule in policy["spec"]["ingress"]:
        check(f"{where}: who may come is said", bool(rule.get("from")))
        for port in rule["ports"]:
            check(f"{where}: the network policy's port", port["port"] in ports, port["port"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        check(f"{where}: {probe} asks the management listener", container[probe]["httpGet"]["port"] == "management")
    for monitor in of("ServiceMonitor"):
        jsonschema.validate(monitor, SERVICE_MONITOR)
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [service for service in of("Service") if wanted <= service["metadata"]["labels"].items()]
        check(f"{where}: the monitor finds one Service", len(found) == 1, len(found))
        for endpoint in monitor["spec"]["endpoints"]:
            check(f"{where}: the monitor's port", endpoint["port"] in [p["name"] for p in found[0]["spec"]["ports"]])
        check(f"{where}: the job's name", found[0]["metadata"]["labels"].get(monitor["spec"]["jobLabel"]) == "tally")

    # The settings, and what has to fit them.
    (config,) = of("ConfigMap")
    used = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    check(f"{where}: the pod has the settings", used == [config["metadata"]["name"]], used)
    settings = tomllib.loads(config["data"]["tally.toml"])
    check(f"{where}: the API's port", port_of(settings["api"]["listen"]) == ports["api"])
    check(f"{where}: the management port", port_of(settings["management"]["listen"]) == ports["management"])
    grace = pod["terminationGracePeriodSeconds"]
    check(f"{where}: there is time to stop", grace > seconds(settings["shutdown_limit"]), grace)
    probe = container["readinessProbe"]
    check(f"{where}: a stop is seen before it", seconds(settings["drain_delay"]) > probe["periodSeconds"] * probe["failureThreshold"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]]
    check(f"{where}: the data are on a claim", mounts.get(settings["data_dir"]) in claims)
    check(f"{where}: every mount has a volume", set(mounts.values()) == {volume["name"] for volume in pod["volumes"]} | set(claims))
    files = list(settings.get("kafka", {}).get("property_files", {}).values())
    files += [value for value in settings.get("kafka", {}).get("properties", {}).values() if value.startswith("/")]
    for file in files:
        check(f"{where}: {file} is mounted", any(file.startswith(f"{mount}/") for mount in mounts))
    print(f"ok: {where}: {len(all_of)} resources fit each other, their settings and the restricted profile")


def compose():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    settings = tomllib.loads((DEPLOY / "container.toml").read_text())
    for name, service in services.items():
        where = f"compose: {name}"
        for port in service.get("ports", []):
            check(f"{where}: published on loopback only", port.startswith("127.0.0.1:"), port)
        check(f"{where}: no capability", service.get("cap_drop") == ["ALL"])
        check(f"{where}: no new privileges", service.get("security_opt") == ["no-new-privileges:true"])
        check(f"{where}: root is read-only", name == "kafka" or service.get("read_only") is True)
        check(f"{where}: not privileged", not service.get("privileged"))
        check(f"{where}: a version of its image", ":" in service["image"].rsplit("/", 1)[1] or service["image"].startswith("localhost/"))
        secret = [key for key in service.get("environment", {}) if re.search("PASSWORD|SECRET|TOKEN|KEY$", key)]
        check(f"{where}: no secret", not secret, secret)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                check(f"{where}: {source} is there", (DEPLOY / source).exists())
                check(f"{where}: {source} is read-only", volume.endswith(":ro"))
    check("compose: there is time to stop", seconds(services["tally"]["stop_grace_period"]) > seconds(settings["shutdown_limit"]))
    targets = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    check("compose: Prometheus asks Tally", targets == [f"tally:{port_of(settings['management']['listen'])}"], targets)
    print(f"ok: compose: {len(services)} services")


def image():
    text = (DEPLOY / "Containerfile").read_text()
    settings = tomllib.loads((DEPLOY / "container.toml").read_text())
    exposed = sorted(map(int, re.search(r"^EXPOSE (.*)$", text, re.M)[1].split()))
    check("image: ports", exposed == sorted(port_of(settings[each]["listen"]) for each in ("api", "management")), exposed)
    check("image: the volume", re.search(r"^VOLUME (.*)$", text, re.M)[1] == settings["data_dir"])
    check("image: its user is a number", re.findall(r"^USER (.*)$", text, re.M) == ["65532:65532"])
    check("image: the bases have versions", all(":" in base for base in re.findall(r"^FROM (\S+)", text, re.M)))
    print("ok: image")


def systemd():
    unit = (DEPLOY / "systemd/tally.service").read_text()
    settings = tomllib.loads((ROOT / "config/production.toml").read_text())
    stop = seconds(re.search(r"^TimeoutStopSec=(.*)$", unit, re.M)[1])
    check("systemd: there is time to stop", stop > seconds(settings["shutdown_limit"]))
    folder = "/var/lib/" + re.search(r"^StateDirectory=(.*)$", unit, re.M)[1]
    check("systemd: the folder", folder == settings["data_dir"], folder)
    print("ok: systemd and config/production.toml fit")


for each in sys.argv[1:]:
    kubernetes(each)
compose()
image()
systemd()
for each in WRONG:
    print(f"WRONG: {each}", file=sys.stderr)
sys.exit(bool(WRONG))
