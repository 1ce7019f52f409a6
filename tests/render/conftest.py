"""Reports as a run would make them: a residual network of 27 blocks, and the awkward ones."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from mpo.records import (
    Analysis,
    Artifact,
    Block,
    BudgetResult,
    Cluster,
    Environment,
    Front,
    FrontPoint,
    Harm,
    Latency,
    ModelFigures,
    OnTarget,
    Parity,
    Plan,
    PlanCandidate,
    Quality,
    Ratio,
    Ratios,
    Recovery,
    Report,
    TargetReport,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "[red]x[/red]",
    "a|b`c",
    "line\nbreak\x1b[31m",
    "\u202egnp.exe",
    "_it_ *is* https://evil.example/ @team",
    "]]>\"'&amp;",
    "stage.0007",
)


def names_of(blocks: int, stages: int = 3) -> tuple[str, ...]:
    """layer1.0, layer1.1, ... as a residual network calls its blocks."""
    each = math.ceil(blocks / stages)
    return tuple(f"layer{1 + i // each}.{i % each}" for i in range(blocks))


def analysis_of(names: tuple[str, ...], undefined: int | None = None) -> Analysis:
    """Similar neighbours, alike within a third of the network; one row undefined when asked."""
    draw = random.Random(0)
    size = len(names)

    def cell(row: int, column: int) -> float | None:
        if undefined in (row, column):
            return None
        same = row * 3 // size == column * 3 // size
        return 1.0 if row == column else max(0.0, (0.97 if same else 0.7) ** abs(row - column))

    matrix = tuple(tuple(cell(row, column) for column in range(size)) for row in range(size))
    harms = tuple(
        Harm(
            name=name,
            kl=0.0 if place == 4 else 10 ** draw.uniform(-3.5, 0.3),
            agreement=draw.uniform(0.9, 1),
            branch_ratio=draw.uniform(0.05, 1.2),
        )
        for place, name in enumerate(names)
    )
    blocks = tuple(
        Block(
            name=name,
            kind="BasicBlock",
            index=place,
            group=name.split(".")[0],
            params=18_000 * (1 + place // 9),
            macs=4_700_000,
            removable=place % 9 != 0,
            reason="" if place % 9 else "changes the shape: 16x32x32 in, 32x16x16 out",
        )
        for place, name in enumerate(names)
    )
    clusters = (Cluster(members=names[1:5], anchor=names[1], min_cka=0.91),) if size > 5 else ()
    return Analysis(
        names=names,
        similarity=matrix,
        null_95=0.021,
        threshold=0.9,
        samples=2048,
        clusters=clusters,
        harms=harms,
        blocks=blocks,
    )


def figures_of(
    scale: float, quality: tuple[float, float, float], samples: int = 300
) -> ModelFigures:
    """A model of `scale` times the size of ResNet-56, with latencies that have a tail."""
    draw = random.Random(int(1000 * scale))
    times = sorted(4.1 * scale * draw.lognormvariate(0, 0.06) for _ in range(samples))
    times[-1] *= 4
    return ModelFigures(
        params=round(855_482 * scale),
        macs=round(125_485_706 * scale),
        size_bytes=round(3_520_000 * scale),
        peak_memory_bytes=round(21_300_000 * (0.3 + 0.7 * scale)),
        load_memory_bytes=round(9_000_000 * scale),
        latency_ms=Latency(
            p50=times[samples // 2],
            p90=times[samples * 9 // 10],
            n=samples,
            samples_ms=tuple(times),
            p50_range=(0.97 * times[samples // 2], 1.02 * times[samples // 2]),
            p90_range=(0.95 * times[samples * 9 // 10], 1.2 * times[samples * 9 // 10]),
        ),
        peak_memory_range=(
            round(21_200_000 * (0.3 + 0.7 * scale)),
            round(22_000_000 * (0.3 + 0.7 * scale)),
        ),
        quality=Quality(
            metric="accuracy", value=quality[1], samples=497, ci95=(quality[0], quality[2])
        ),
    )


def plan_of(names: tuple[str, ...], removed: tuple[str, ...]) -> Plan:
    """A plan with two fronts of ten, two alternatives and the chosen one among them."""

    def candidate(count: int, extra: float = 0.0) -> PlanCandidate:
        share = count / max(len(names), 1)
        return PlanCandidate(
            removed=names[1 : 1 + count] if not extra else names[-count:],
            harm=0.02 * math.exp(5 * share) + extra,
            joint_kl=0.03 * math.exp(5 * share) + extra,
            costs={"params": 855_482 * (1 - share), "latency_p90_ms": 4.5 * (1 - share)},
        )

    def front(metric: str) -> Front:
        points = (candidate(count) for count in range(1, 11))
        return Front(
            metric=metric,
            points=tuple(
                FrontPoint(removed=one.removed, harm=one.harm, cost=one.costs[metric])
                for one in points
            ),
            chosen=FrontPoint(removed=removed, harm=chosen.harm, cost=chosen.costs[metric]),
            least=0.2,
        )

    chosen = PlanCandidate(
        removed=removed,
        harm=0.21,
        joint_kl=0.35,
        costs={"params": 412_000, "latency_p90_ms": 2.3},
        recovered_quality=0.993,
    )
    return Plan(
        method="mpruner",
        subject="examples/digits/subject.py",
        seed=0,
        removed=removed,
        harm=0.21,
        alternatives=(candidate(7, 0.2), candidate(9, 0.35), chosen),
        fronts=tuple(front(metric) for metric in ("params", "latency_p90_ms")),
        notes=("Latency costs were fitted on 3 measured candidates.",),
    )


def build(**changes: Any) -> Report:
    """A whole report; any field can be replaced."""
    names = changes.pop("names", names_of(27))
    removed = changes.pop("removed", (*names[1:5], *names[11:15], *names[20:25]))
    fields: dict[str, Any] = {
        "tool": {"version": "0.1.0"},
        "subject": "examples/digits/subject.py",
        "target": "local",
        "method": "mpruner",
        "seed": 0,
        "budgets": (
            BudgetResult(
                target="local",
                text="params=50%",
                metric="params",
                limit=427_741,
                measured=412_009,
                met=True,
            ),
            BudgetResult(
                target="local",
                text="20MB",
                metric="memory_bytes",
                limit=20e6,
                measured=14.1e6,
                met=True,
            ),
            BudgetResult(
                target="local",
                text="latency=3ms",
                metric="latency_p90_ms",
                limit=3,
                measured=2.31,
                met=True,
            ),
        ),
        "met": True,
        "status": "met",
        "max_drop": 0.01,
        "original": figures_of(1.0, (0.985, 0.998, 1.0)),
        "optimized": figures_of(0.5, (0.979, 0.994, 0.999)),
        "ratio": Ratios(
            latency=Ratio(estimate=0.522, ci95=(0.507, 0.538), pairs=12),
            memory=0.65,
            size=0.5,
            params=0.482,
            macs=0.51,
        ),
        "blocks": len(names),
        "removed": removed,
        "parity": {
            "onnx": Parity(
                max_abs=2.1e-5, max_rel=8.4e-6, agreement=1.0, samples=64, batches=(1, 8), ok=True
            )
        },
        "artifacts": (
            Artifact(
                path="model.onnx",
                format="onnx",
                precision="fp32",
                bytes=1_760_311,
                sha256="3f" * 32,
            ),
            Artifact(
                path="model.safetensors",
                format="safetensors",
                precision="fp32",
                bytes=1_702_112,
                sha256="a7" * 32,
            ),
        ),
        "recovery": Recovery(
            epochs=5,
            best_epoch=4,
            before=0.71,
            after=0.993,
            original=0.99,
            history=tuple(
                {"epoch": e, "loss": 0.9 / e, "quality": q}
                for e, q in enumerate((0.94, 0.97, 0.986, 0.993, 0.991), 1)
            ),
        ),
        "analysis": analysis_of(names),
        "plan": plan_of(names, removed),
        "environment": Environment(
            cpu="Intel Xeon Platinum 8481C",
            cores=2,
            memory_bytes=16_000_000_000,
            os="Debian GNU/Linux 12, Linux 6.18",
            python="3.11.2",
            runtimes={"torch": "2.13.0", "onnxruntime": "1.30.1"},
            batch=1,
            threads=2,
            options={"allow_spinning": "0"},
        ),
        "seconds": {"analyze": 8.2, "plan": 1.4, "recover": 61.0, "export": 9.4, "measure": 22.8},
        "warnings": (
            "The clock is not locked: p90 is 1.4 x p50 over 300 runs; try a quiet machine.",
        ),
    }
    return Report(**{"schema": "mpo.report/1", **fields, **changes})


def hostile() -> Report:
    """Every text from outside is an attack; nothing was recovered, cells are undefined."""
    removed = HOSTILE[1:3]
    plan = plan_of(HOSTILE, removed).model_copy(update={"notes": HOSTILE, "subject": HOSTILE[0]})
    everywhere = " ".join(HOSTILE)
    good = build()
    return build(
        names=HOSTILE,
        removed=removed,
        plan=plan,
        analysis=analysis_of(HOSTILE, undefined=3),
        subject=everywhere,
        target=HOSTILE[0],
        method=HOSTILE[3],
        recovery=None,
        warnings=HOSTILE,
        tool={HOSTILE[0]: HOSTILE[2], "version": HOSTILE[0]},
        seconds=dict.fromkeys(HOSTILE, 1.0),
        budgets=tuple(
            BudgetResult(
                target="local", text=text, metric="size_bytes", limit=1e6, measured=2e6, met=False
            )
            for text in HOSTILE
        ),
        parity={
            text: Parity(
                max_abs=1, max_rel=1, agreement=0, samples=1, batches=(1,), ok=False, reason=text
            )
            for text in HOSTILE
        },
        artifacts=tuple(
            Artifact(path=text, format=text, precision=text, bytes=1, sha256=text)
            for text in HOSTILE
        ),
        original=good.original.model_copy(
            update={"quality": Quality(metric=everywhere, value=3, samples=1, ci95=(2, 9))}
        ),
        environment=good.environment.model_copy(
            update={
                "cpu": everywhere,
                "os": everywhere,
                "runtimes": dict.fromkeys(HOSTILE, everywhere),
            }
        ),
        met=False,
        status="infeasible",
    )


def two_targets(target: str = "ssh://pi@edge-7") -> Report:
    """Budgets that hold on this machine, and on a second device with its own figures."""
    good = build()
    figures = {
        "target": target,
        "peak_memory_bytes": 9_000_000,
        "load_memory_bytes": 7_000_000,
        "latency_ms": Latency(p50=31.0, p90=33.0, n=150),
    }
    one = OnTarget(**figures)
    other = one.model_copy(update={"latency_ms": Latency(p50=15.5, p90=17.0, n=150)})
    bound = good.budgets[1].model_copy(update={"target": target, "measured": 9e6})
    return build(
        budgets=(*good.budgets, bound),
        others=(
            TargetReport(
                original=one,
                optimized=other,
                ratio=Ratio(estimate=0.5, ci95=(0.48, 0.52), pairs=8),
                environment=good.environment,
            ),
        ),
    )


def infeasible() -> Report:
    """One budget missed, below the quality of the original, undefined similarities."""
    return build(
        status="infeasible",
        met=False,
        budgets=(
            BudgetResult(
                target="local",
                text="params=50%",
                metric="params",
                limit=427_741,
                measured=412_009,
                met=True,
            ),
            BudgetResult(
                target="local",
                text="latency=1ms",
                metric="latency_p90_ms",
                limit=1,
                measured=2.31,
                met=False,
            ),
        ),
        analysis=analysis_of(names_of(27), undefined=7),
    )


def already_met() -> Report:
    """Nothing removed: both models are the same."""
    good = build()
    ratio = Ratio(estimate=1.0, ci95=(1.0, 1.0), pairs=0)
    return build(
        status="already-met",
        removed=(),
        optimized=good.original,
        ratio=Ratios(latency=ratio, memory=1, size=1, params=1, macs=1),
        recovery=None,
        plan=Plan(method="mpruner", subject="s.py", seed=0, removed=(), harm=0.0),
        warnings=(),
    )


def large() -> Report:
    """Sixty blocks with long names, and a loss as the metric."""
    names = tuple(f"encoder.layers.{i}.residual_block" for i in range(60))
    loss = {"metric": "perplexity", "samples": 20_000, "lower_is_better": True}
    good = build()
    return build(
        names=names,
        analysis=analysis_of(names),
        status="below-floor",
        original=good.original.model_copy(
            update={"quality": Quality(value=18.2, ci95=(17.9, 18.6), **loss)}
        ),
        optimized=good.optimized.model_copy(
            update={"quality": Quality(value=24.9, ci95=(24.1, 25.8), **loss)}
        ),
        recovery=good.recovery
        and good.recovery.model_copy(
            update={"before": 91.0, "after": 24.9, "original": 18.2, "history": ()}
        ),
    )


def bare() -> Report:
    """As little as a report can hold: no analysis, samples, files or budgets; an instant model."""
    quality = Quality(metric="accuracy", value=0.0, samples=1, ci95=(0.0, 0.0))
    nothing = ModelFigures(
        params=0,
        macs=0,
        size_bytes=0,
        peak_memory_bytes=0,
        load_memory_bytes=0,
        latency_ms=Latency(p50=0.0, p90=0.0, n=0),
        quality=quality,
    )
    analysis = Analysis(
        names=(), similarity=(), null_95=0, threshold=1, samples=0, clusters=(), harms=(), blocks=()
    )
    return build(
        names=(),
        removed=(),
        analysis=analysis,
        original=nothing,
        optimized=nothing,
        budgets=(),
        artifacts=(),
        parity={},
        recovery=None,
        seconds={},
        plan=Plan(method="mpruner", subject="s.py", seed=0, removed=(), harm=0.0),
        warnings=(),
    )


CASES = {
    "good": build,
    "hostile": hostile,
    "infeasible": infeasible,
    "two_targets": two_targets,
    "hostile_target": lambda: two_targets("".join(HOSTILE)),
    "already_met": already_met,
    "large": large,
    "bare": bare,
}


@pytest.fixture(params=list(CASES))
def report(request: pytest.FixtureRequest) -> Report:
    """Each kind of report in turn."""
    return CASES[request.param]()


@pytest.fixture
def reports() -> dict[str, Report]:
    """All kinds by name."""
    return {name: make() for name, make in CASES.items()}
