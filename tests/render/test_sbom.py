"""The ML-BOM: valid by the official schema, with the measured figures, the same every time."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from mpo.records import Bundle, BundleTarget, BundleTensor, Report
from mpo.render.sbom import mlbom
from tests.bundle.small import manifest, parts
from tests.render.conftest import HOSTILE


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    """CycloneDX's own schema for 1.6, which refers to two more."""
    pytest.importorskip("cyclonedx", reason="the official schema is not installed (extra dev)")
    folder = files("cyclonedx.schema._res")

    def read(name: str) -> Any:
        return json.loads(folder.joinpath(f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))

    found = [Resource.from_contents(read(name)) for name in ("bom-1.6", "spdx", "jsf-0.82")]
    registry: Any = Registry().with_resources((one.id() or "", one) for one in found)
    return Draft7Validator(
        read("bom-1.6"), registry=registry, format_checker=Draft7Validator.FORMAT_CHECKER
    )


def bundle(**changes: Any) -> Bundle:
    return manifest(parts(), **changes)


def measured_on(name: str) -> BundleTarget:
    return BundleTarget(
        name=name,
        status="tested",
        cpu="a CPU",
        latency_p50_ms=1.25,
        latency_p90_ms=1.5,
        peak_memory_bytes=7_000_000,
        evidence="report.json#/optimized",
    )


CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "licence": {"license": "Apache-2.0 OR MIT"},
    "own licence": {"license": "Ours; ask <us>"},
    "created": {"created": "2026-11-21T10:00:00Z"},
    "targets": {
        "targets": (measured_on("ssh://u@h"), BundleTarget(name="orin", status="expected"))
    },
    "limits": {"limitations": HOSTILE},
    "names": {
        "inputs": tuple(BundleTensor(name=n, dtype="float32", shape=(n, 2)) for n in HOSTILE)
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_document_is_valid_by_the_official_schema(
    change: str, schema: Draft7Validator, reports: dict[str, Report]
) -> None:
    for report in reports.values():
        found = list(schema.iter_errors(json.loads(mlbom(bundle(**CHANGES[change]), report))))
        assert not found, found[0].message


def test_a_document_of_another_kind_is_not(schema: Draft7Validator) -> None:
    assert list(schema.iter_errors({"bomFormat": "CycloneDX", "specVersion": "1.6", "x": 1}))


def test_it_holds_the_measured_figures_unrounded(reports: dict[str, Report]) -> None:
    report = next(iter(reports.values()))
    model = json.loads(mlbom(bundle(targets=(measured_on("here"),)), report))["metadata"][
        "component"
    ]
    rows = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    found = {(row["type"], row["slice"].split(" on ")[0].split(",")[0]): row for row in rows}
    quality = report.optimized.quality
    row = found[quality.metric, "optimized"]
    assert float(row["value"]) == quality.value
    assert float(row["confidenceInterval"]["lowerBound"]) == quality.ci95[0]
    assert float(found["latency p90 (ms)", "original"]["value"]) == report.original.latency_ms.p90
    ratio = found["latency ratio", "optimized / original"]
    assert float(ratio["confidenceInterval"]["upperBound"]) == report.ratio.latency.ci95[1]
    assert float(found["latency p50 (ms)", "bundle"]["value"]) == 1.25


def test_it_names_the_model_s_bytes_and_what_it_was_made_of(reports: dict[str, Report]) -> None:
    report, one = next(iter(reports.values())), bundle()
    lineage = one.lineage.model_copy(update={"original": "a" * 64})
    told = json.loads(mlbom(one.model_copy(update={"lineage": lineage}), report))
    model = told["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": one.files["model/model.onnx"].sha256}]
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == "a" * 64
    assert {row["name"]: row["value"] for row in model["properties"]}["mpo:params"] == "6"


def test_the_same_bundle_gives_the_same_document(reports: dict[str, Report]) -> None:
    report = next(iter(reports.values()))
    assert mlbom(bundle(), report) == mlbom(bundle(), report)
    assert "timestamp" not in mlbom(bundle(), report)
    one, other = (json.loads(mlbom(bundle(version=v), report)) for v in ("1.0.0", "1.0.1"))
    assert one["serialNumber"] != other["serialNumber"]


def test_hostile_names_stay_text_without_control_characters(reports: dict[str, Report]) -> None:
    text = mlbom(bundle(limitations=HOSTILE), reports["hostile"])
    assert "\x1b" not in text
    assert "\\u001b" not in text
    assert "\u202e" not in text
