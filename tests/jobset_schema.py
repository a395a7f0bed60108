"""What a JobSet may say (``jobset.x-k8s.io/v1alpha2``, fields and rules of its published API, read in 2026), and
the part of a Job and of a pod that ours uses. A field that is not listed is refused, as the API server refuses it."""

from typing import Any


def _record(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": "object", "additionalProperties": False, "required": [*required]}
    return {**fields, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}  # labels, annotations and selectors hold texts alone
_META = _record(
    name={"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}, labels=_TEXTS, annotations=_TEXTS
)

_RULE = _record(
    ("name", "action"),
    name={"type": "string", "pattern": r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": [
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
            "RestartJob",
            "RestartJobAndIgnoreMaxRestarts",
        ]
    },
    onJobFailureReasons={
        **_list(
            {
                "enum": [
                    "BackoffLimitExceeded",
                    "DeadlineExceeded",
                    "FailedIndexes",
                    "MaxFailedIndexesExceeded",
                    "PodFailurePolicy",
                ]
            }
        ),
        "uniqueItems": True,
    },
    onJobFailureMessagePatterns=_list(_TEXT),
    targetReplicatedJobs=_list(_TEXT),
)
_POD_RULE = _record(
    ("action",),
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=_record(
        ("operator", "values"),
        containerName=_TEXT,
        operator={"enum": ["In", "NotIn"]},
        values={**_list({"type": "integer"}), "minItems": 1, "uniqueItems": True},
    ),
    onPodConditions=_list(_record(("type", "status"), type=_TEXT, status=_TEXT)),
)
_POD = _record(
    ("containers", "restartPolicy"),
    serviceAccountName=_TEXT,
    restartPolicy={"const": "Never"},  # a policy on exit codes allows no other
    terminationGracePeriodSeconds=_NUMBER,
    nodeSelector=_TEXTS,
    containers=_list(
        _record(
            ("name", "image"),
            name=_TEXT,
            image=_TEXT,
            command=_list(_TEXT),
            args=_list(_TEXT),
            ports=_list(_record(("containerPort",), containerPort={"type": "integer", "minimum": 1, "maximum": 65535})),
            resources=_record(limits={"type": "object"}, requests={"type": "object"}),
            volumeMounts=_list(
                _record(("name", "mountPath"), name=_TEXT, mountPath=_TEXT, readOnly={"type": "boolean"})
            ),
        )
    ),
    volumes=_list(
        _record(
            ("name", "csi"),
            name=_TEXT,
            csi=_record(("driver",), driver=_TEXT, readOnly={"type": "boolean"}, volumeAttributes=_TEXTS),
        )
    ),
)
_JOB = _record(
    ("template",),
    parallelism=_NUMBER,
    completions=_NUMBER,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit=_NUMBER,
    podFailurePolicy=_record(("rules",), rules=_list(_POD_RULE)),
    template=_record(("spec",), metadata=_META, spec=_POD),
)
JOB_SET = _record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_META,
    spec=_record(
        ("replicatedJobs",),
        replicatedJobs=_list(
            _record(
                ("name", "template"),
                name=_TEXT,
                groupName=_TEXT,
                replicas=_NUMBER,
                dependsOn={
                    **_list(_record(("name", "status"), name=_TEXT, status={"enum": ["Ready", "Complete"]})),
                    "maxItems": 5,
                },
                template=_record(("spec",), metadata=_META, spec=_JOB),
            )
        ),
        failurePolicy=_record(
            maxRestarts=_NUMBER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules=_list(_RULE),
        ),
        successPolicy=_record(("operator",), operator={"enum": ["All", "Any"]}, targetReplicatedJobs=_list(_TEXT)),
        network=_record(
            enableDNSHostnames={"type": "boolean"}, subdomain=_TEXT, publishNotReadyAddresses={"type": "boolean"}
        ),
        startupPolicy=_record(("startupPolicyOrder",), startupPolicyOrder={"enum": ["AnyOrder", "InOrder"]}),
        coordinator=_record(("replicatedJob",), replicatedJob=_TEXT, jobIndex=_NUMBER, podIndex=_NUMBER),
        suspend={"type": "boolean"},
        managedBy=_TEXT,
        ttlSecondsAfterFinished=_NUMBER,
    ),
)
