"""Launch files as the tools themselves read them: xpk and SkyPilot, where these are installed; JobSets beside xpk's.

    for name in xpk skypilot kubernetes; do python -m venv /tmp/$name && /tmp/$name/bin/pip install $name; done
    PATH=/tmp/xpk/bin:/tmp/skypilot/bin:$PATH PYTHONPATH=$(echo /tmp/kubernetes/lib/python*/site-packages) \\
      python -m pytest -m "ci or not ci" tests/cli/test_launch_validators.py

Slurm's own word is in test_slurm_cluster.py.
"""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from support.launching import make_place, started, written
from support.limits import LIMIT_S

yaml = pytest.importorskip("yaml")

TRAINED = "exec capscale run mine.py --out 'out dir' --ladder nano --text text.txt --mode mesh --distributed --index"


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def tool(name):
    """Path of a tool that is not the stand-in of that name."""
    found = shutil.which(name, path=os.pathsep.join(os.environ["PATH"].split(os.pathsep)[1:]))
    if found is None:
        pytest.skip(f"{name} is not installed: it is asked where it is on the path")
    return found


def dry_run(where, *options):
    done = started(written(where, *options), "--dry-run")
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_xpk(place, *options, topology="v4:2x2x2"):
    """The manifest that xpk makes of the first command of our script."""
    xpk = tool("xpk")
    line = next(line for line in dry_run("xpk", "--topology", topology, *options).splitlines() if "create" in line)
    asked = [xpk, *shlex.split(line)[1:], "--dry-run", "--skip-validation", "--project", "p"]
    done = subprocess.run(
        [*asked, "--output-manifest-file", "made.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
        cwd=place,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return yaml.safe_load((place / "made.yaml").read_text())


def parts(manifest):
    """Slices, job of a slice, pod and container of a JobSet with one of each."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    return replicated["replicas"], job, pod, container


def restarted_on(job):
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "NotIn")
    return set(rule["onExitCodes"]["values"])


@pytest.mark.ci
def test_xpk_makes_a_workload_of_the_script(place):
    found = by_xpk(place)
    assert found["metadata"]["name"] == "capscale-mine-nano-0"
    slices, job, pod, container = parts(found)
    assert (slices, job["parallelism"], found["spec"]["failurePolicy"]["maxRestarts"]) == (1, 2, 100)
    assert {75, 134, 137, 143} <= restarted_on(job)
    assert not {0, 1, 2} & restarted_on(job)
    assert pod["terminationGracePeriodSeconds"] == 120
    assert container["image"] == "gcr.io/p/capscale"
    assert f"({TRAINED} 0)" in container["command"][-1]


@pytest.mark.ci
@pytest.mark.parametrize("topology", ["v4:2x2x2", "v5e:4x4", "v5p:2x2x4", "v6e:4x8"])
def test_our_jobset_is_that_of_xpk(topology, place):
    """In everything that decides where it runs and when it starts again."""
    options = ["--topology", topology, "--slices", "2"]
    theirs = by_xpk(place, "--slices", "2", topology=topology)
    ours, _ = yaml.safe_load_all(dry_run("jobset", *options).partition("---\n")[2])
    assert [ours[name] for name in ("apiVersion", "kind")] == [theirs[name] for name in ("apiVersion", "kind")]
    assert ours["metadata"]["annotations"] == theirs["metadata"]["annotations"]
    assert ours["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    policy, of_xpk = (found["spec"]["failurePolicy"] for found in (ours, theirs))
    assert policy["maxRestarts"] == of_xpk["maxRestarts"]
    assert [rule["action"] for rule in policy["rules"]] == [rule["action"] for rule in of_xpk["rules"]]
    (slices, job, pod, worker), (slices_of_xpk, job_of_xpk, pod_of_xpk, worker_of_xpk) = map(parts, (ours, theirs))
    assert slices == slices_of_xpk == 2
    for name in ("parallelism", "completions", "backoffLimit"):
        assert job[name] == job_of_xpk[name]
    assert restarted_on(job) <= restarted_on(job_of_xpk)
    for name in ("restartPolicy", "hostNetwork", "dnsPolicy", "terminationGracePeriodSeconds", "nodeSelector"):
        assert pod[name] == pod_of_xpk[name]
    assert pod["tolerations"] == pod_of_xpk["tolerations"]
    assert worker["resources"] == worker_of_xpk["resources"]


def test_jobsets_are_complete(place):
    """By rules of Kubernetes, where xpk is not at hand: one host for each completion, a name that DNS takes."""
    first, second = yaml.safe_load_all(dry_run("jobset").partition("---\n")[2])
    assert [found["metadata"]["name"] for found in (first, second)] == [f"capscale-mine-nano-{i}" for i in range(2)]
    for index, found in enumerate((first, second)):
        slices, job, pod, container = parts(found)
        assert (slices, job["parallelism"], job["completions"], job["completionMode"]) == (1, 2, 2, "Indexed")
        assert (pod["restartPolicy"], job["backoffLimit"]) == ("Never", 0), "what podFailurePolicy asks for"
        assert len(restarted_on(job)) <= 255
        assert {75, 134, 137, 143} <= restarted_on(job)
        assert not {0, 1, 2} & restarted_on(job)
        assert container["command"] == ["bash", "-c", f"{TRAINED} $CAPSCALE_INDEX"]
        assert container["env"] == [{"name": "CAPSCALE_INDEX", "value": str(index)}]
        assert len(f"{found['metadata']['name']}-slice-0-0-abcde") <= 63


OF_JOBSET = {
    "JobSet": "apiVersion kind metadata spec",
    "JobSetSpec": "replicatedJobs network successPolicy failurePolicy startupPolicy suspend coordinator managedBy "
    "ttlSecondsAfterFinished volumeClaimPolicies",
    "FailurePolicy": "maxRestarts restartStrategy rules",
    "FailurePolicyRule": "name action onJobFailureReasons onJobFailureMessagePatterns targetReplicatedJobs",
    "ReplicatedJob": "name groupName template replicas dependsOn",
}
"""Names in the schema jobset.x-k8s.io/v1alpha2 (api/jobset/v1alpha2/jobset_types.go), of which its file of 2026 and the
checks of pkg/webhooks/jobset_webhook.go were read."""
ACTIONS = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob")
REASONS = ("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy")
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1035."""


@pytest.mark.parametrize("slices", ["1", "2"])
def test_jobsets_are_by_their_schema(slices, place):
    """Every name, and what the controller refuses before anything starts."""
    found, _ = yaml.safe_load_all(dry_run("jobset", "--slices", slices).partition("---\n")[2])
    spec, name = found["spec"], found["metadata"]["name"]
    (rule,), (job,) = spec["failurePolicy"]["rules"], spec["replicatedJobs"]
    for what, value in zip(OF_JOBSET, (found, spec, spec["failurePolicy"], rule, job), strict=True):
        assert set(value) <= set(OF_JOBSET[what].split())
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert rule["action"] in ACTIONS
    assert set(rule["onJobFailureReasons"]) <= set(REASONS)
    assert type(spec["failurePolicy"]["maxRestarts"]) is type(job["replicas"]) is int
    last, hosts = job["replicas"] - 1, job["template"]["spec"]["completions"]
    assert LABEL.fullmatch(f"{name}-{job['name']}-{last}")
    assert LABEL.fullmatch(f"{name}-{job['name']}-{last}-{hosts - 1}-abcde")
    (again,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    codes = again["onExitCodes"]["values"]
    assert codes == sorted(set(codes)), "what the API asks for"
    assert again["onExitCodes"]["containerName"] == job["template"]["spec"]["template"]["spec"]["containers"][0]["name"]


def misfits(value, kind, path=""):
    """Places at which a value is not of a type of the Kubernetes API, as its client describes that."""
    from kubernetes import client

    if of_many := re.fullmatch(r"list\[(.*)\]", kind, re.I):
        pairs = [(each, of_many[1], f"{path}[{place}]") for place, each in enumerate(value)]
    elif of_many := re.fullmatch(r"dict[\[(]str, (.*)[\])]", kind, re.I):
        pairs = [(each, of_many[1], f"{path}.{name}") for name, each in value.items()]
    elif kind in ("str", "int", "bool"):
        is_quantity = ".resources." in path and isinstance(value, int)
        return [] if type(value).__name__ == kind or is_quantity else [f"{path} is {value!r}, not {kind}"]
    else:
        model = getattr(client, kind)
        names = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
        pairs = [(each, names.get(name, "nothing"), f"{path}.{name}") for name, each in value.items()]
    unknown = [f"{at} is unknown" for _, of, at in pairs if of == "nothing"]
    return [*unknown, *(found for each, of, at in pairs if of != "nothing" for found in misfits(each, of, at))]


@pytest.mark.ci
def test_jobs_of_a_jobset_are_by_the_schema_of_kubernetes(place):
    pytest.importorskip("kubernetes")
    found, _ = yaml.safe_load_all(dry_run("jobset").partition("---\n")[2])
    (job,) = found["spec"]["replicatedJobs"]
    assert misfits(job["template"], "V1JobTemplateSpec") == []
    assert misfits(found["metadata"], "V1ObjectMeta") == []
    job["template"]["spec"]["template"]["spec"]["containers"][0] |= {"imagePullPolice": "Always", "tty": "yes"}
    path = ".spec.template.spec.containers[0]"
    expected = [f"{path}.imagePullPolice is unknown", f"{path}.tty is 'yes', not bool"]
    assert misfits(job["template"], "V1JobTemplateSpec") == expected, "it does refuse"


READ = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
(resources,) = task.resources
print(json.dumps({"nodes": task.num_nodes, "spot": resources.use_spot, "recovery": resources.job_recovery,
                  "chips": list(resources.accelerators), "more": resources.accelerator_args, "run": task.run}))
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("accelerators", "options", "chip", "runtime"),
    [
        ("H100:8", ["--nodes", "2"], "H100", None),
        ("tpu-v5litepod-16", [], "tpu-v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("tpu-v6e-8", ["--capacity", "on-demand"], "tpu-v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_skypilot_reads_the_task(accelerators, options, chip, runtime, place):
    script = written("skypilot", "--accelerators", accelerators, *options)
    text = script.read_text().partition("<<'TASK'\n")[2].partition("\nTASK\n")[0]
    (place / "task.yaml").write_text(text)
    python = os.path.join(os.path.dirname(tool("sky")), "python")
    command = [python, "-c", READ, "task.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == (2 if "--nodes" in options else 1)
    assert found["spot"] is ("--capacity" not in options)
    assert found["recovery"]["recover_on_exit_codes"] == [75, 134, 143]
    assert found["chips"] == [chip]
    assert (found["more"] or {}).get("runtime_version") == runtime
    assert found["run"] == json.loads(text)["run"]
    (place / "wrong.yaml").write_text(text.replace('"use_spot"', '"spotty"'))
    refused = subprocess.run([*command[:-1], "wrong.yaml"], capture_output=True, check=False, timeout=LIMIT_S)
    assert refused.returncode != 0, "it does refuse"
