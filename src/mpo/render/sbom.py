"""The ML-BOM of a bundle: CycloneDX 1.6, with the figures that were measured.

Source: the CycloneDX 1.6 JSON schema (component type `machine-learning-model`, its modelCard).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

from mpo.records import Bundle, BundleTarget, BundleTensor, ModelFigures, Report
from mpo.render.names import clean

SPACE = uuid.UUID("6d706f00-0000-5000-8000-000000000000")  # "mpo": serial numbers are made in it
_SPDX = re.compile(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*")
MODEL, NAMES = "model", ("onnxruntime", "numpy")


def mlbom(manifest: Bundle, report: Report) -> str:
    """The document: the same for the same manifest and report, whenever and wherever.

    Args:
        manifest: of the bundle, this document not yet in its files.
    """
    metadata: dict[str, Any] = {
        "tools": {"components": [_tool(manifest)]},
        "component": _model(manifest, report),
    }
    if manifest.created:
        metadata["timestamp"] = manifest.created
    key = f"{manifest.name} {manifest.version} {manifest.files[manifest.model.path].sha256}"
    told = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(SPACE, key).urn,
        "version": manifest.bundle_version,
        "metadata": metadata,
        "components": [_library(name, manifest) for name in NAMES],
        "dependencies": [
            {"ref": MODEL, "dependsOn": sorted(NAMES)},
            *({"ref": name} for name in sorted(NAMES)),
        ],
    }
    return json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _tool(manifest: Bundle) -> dict[str, str]:
    return {"type": "application", "name": manifest.tool.name, "version": manifest.tool.version}


def _library(name: str, manifest: Bundle) -> dict[str, Any]:
    """What the model needs where it runs; the version is the one that it was tested with."""
    found = {"type": "library", "bom-ref": name, "name": name, "scope": "required"}
    if name != "onnxruntime":
        return {**found, "purl": f"pkg:pypi/{name}"}
    runtime = manifest.runtime
    return {
        **found,
        "version": runtime.tested_onnxruntime,
        "purl": f"pkg:pypi/{name}@{runtime.tested_onnxruntime}",
        "properties": _properties({"mpo:least_version": runtime.onnxruntime}),
    }


def _model(manifest: Bundle, report: Report) -> dict[str, Any]:
    model, lineage = manifest.model, manifest.lineage
    facts = {
        "mpo:format": model.format,
        "mpo:opset": model.opset,
        "mpo:precision": model.precision,
        "mpo:params": model.params,
        "mpo:bytes": model.bytes,
        "mpo:macs": model.macs,
        "mpo:method": clean(report.method),
        "mpo:blocks_removed": f"{len(report.removed)} of {report.blocks}",
        "mpo:plan_sha256": lineage.plan,
        "mpo:report_sha256": lineage.report,
    }
    found = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": manifest.name,
        "version": manifest.version,
        "hashes": [_hash(manifest.files[path].sha256) for path in (model.path,)],
        "modelCard": _card(manifest, report),
        "pedigree": _pedigree(manifest, report),
        "properties": _properties(facts),
        # Weights beside the graph are files of their own.
        "components": [
            {"type": "file", "name": path, "hashes": [_hash(manifest.files[path].sha256)]}
            for path in model.weights
        ],
    }
    if manifest.license != "NOASSERTION":
        spdx = _SPDX.fullmatch(manifest.license)
        name = {"license": {"name": clean(manifest.license)}}
        found["licenses"] = [{"expression": manifest.license} if spdx else name]
    return {key: value for key, value in found.items() if value}


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _pedigree(manifest: Bundle, report: Report) -> dict[str, Any]:
    """What the model was made of: the original, and how."""
    original = {"type": "machine-learning-model", "name": clean(report.subject)}
    digest = manifest.lineage.original
    hashes = {"hashes": [_hash(digest)]} if digest else {}
    notes = (
        f"{len(report.removed)} blocks removed by {clean(report.method)}: plan.json of the bundle."
    )
    return {"ancestors": [{**original, **hashes}], "notes": notes}


def _card(manifest: Bundle, report: Report) -> dict[str, Any]:
    tradeoffs = [
        f"{clean(one.text)}: {one.measured:.6g} against {one.limit:.6g} ({one.metric}) "
        f"on {clean(one.target)}: {'met' if one.met else 'not met'}"
        for one in manifest.budgets
    ]
    considerations = {
        "technicalLimitations": [clean(text) for text in manifest.limitations],
        "performanceTradeoffs": tradeoffs,
    }
    return {
        "bom-ref": "card",
        "modelParameters": {
            "inputs": [{"format": _tensor(one)} for one in manifest.inputs],
            "outputs": [{"format": _tensor(one)} for one in manifest.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest, report))},
        "considerations": {key: value for key, value in considerations.items() if value},
    }


def _tensor(one: BundleTensor) -> str:
    shape = "x".join(clean(str(axis)) for axis in one.shape) or "scalar"
    return f"{clean(one.name)}: {one.dtype} {shape}"


def _metrics(manifest: Bundle, report: Report) -> Iterator[dict[str, Any]]:
    """Every figure of both models, unrounded, with its interval where it has one."""
    where = f"{clean(report.target)}, batch {report.environment.batch}"
    where += f", threads {report.environment.threads}"
    models = (("optimized", report.optimized), ("original", report.original))
    for name, figures in models:
        yield from _figures(name, figures, where)
    speed = report.ratio.latency
    yield _metric("latency ratio", speed.estimate, f"optimized / original on {where}", speed.ci95)
    for target in manifest.targets:
        if target.status == "tested":
            yield from _on_target(target)


def _figures(name: str, figures: ModelFigures, where: str) -> Iterator[dict[str, Any]]:
    quality = figures.quality
    about = f"{name}, {quality.samples} test samples"
    yield _metric(clean(quality.metric), quality.value, about, quality.ci95)
    yield _metric("parameters", figures.params, name)
    yield _metric("multiply-accumulates", figures.macs, name)
    yield _metric("file size (bytes)", figures.size_bytes, name)
    yield _metric("peak memory (bytes)", figures.peak_memory_bytes, f"{name} on {where}")
    yield _metric("latency p50 (ms)", figures.latency_ms.p50, f"{name} on {where}")
    yield _metric("latency p90 (ms)", figures.latency_ms.p90, f"{name} on {where}")


def _on_target(target: BundleTarget) -> Iterator[dict[str, Any]]:
    about = f"bundle on {clean(target.name)}, {clean(target.cpu)}"
    figures = (
        ("peak memory (bytes)", target.peak_memory_bytes),
        ("latency p50 (ms)", target.latency_p50_ms),
        ("latency p90 (ms)", target.latency_p90_ms),
    )
    for kind, value in figures:
        if value is not None:
            yield _metric(kind, value, about)


def _metric(
    kind: str, value: float, about: str, interval: tuple[float, float] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"type": kind, "value": repr(value), "slice": about}
    if interval is not None:
        low, high = map(repr, interval)
        found["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return found


def _properties(facts: dict[str, object]) -> list[dict[str, str]]:
    return [
        {"name": name, "value": str(value)} for name, value in facts.items() if value is not None
    ]
