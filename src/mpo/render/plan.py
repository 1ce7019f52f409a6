"""A plan on a terminal: what goes and what it is predicted to cost, the next best plans, the
budgets, the fronts of harm against each cost, and why each block goes or stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpo.records import Front, Plan, PlannedBudget, PrecisionChoice, Reason
from mpo.render.front import named
from mpo.render.names import clean, compact_names
from mpo.render.text import blocks_of, candidates, format_metric, is_chosen

_NAMES = 6  # entries of a list of blocks before "and N more"


def plan_table(plan: Plan) -> RenderableType:
    """Return what to print with rich: the plans, then the fronts and the reasons where there are
    any, then the notes.

    Names are put into `Text` objects, never into markup, so that nothing in them is obeyed.
    """
    count = len(plan.removed)
    goes = f"{count} {'block goes' if count == 1 else 'blocks go'}: {compact_names(plan.removed)}"
    told = goes if count else "Nothing goes."
    if plan.precision != "fp32":
        told += f" In {plan.precision}."
    parts: list[RenderableType] = [Text(told), Text(), _plans(plan)]
    parts += [Text(), _choices(plan.choices)] if len(plan.choices) > 1 else []
    parts += [Text(), *_budgets(plan.budgets)] if plan.budgets else []
    for found in plan.fronts:
        parts += [Text(), Text(f"Harm against {_lower(named(found.metric))}"), _front(found)]
    if plan.reasons:
        parts += [Text(), *_reasons(plan.reasons)]
    if plan.notes:
        parts += [Text(), *(Text(clean(note), style="yellow") for note in plan.notes)]
    return Group(*parts)


def _lower(words: str) -> str:
    return words if words[:2].isupper() else words[:1].lower() + words[1:]


def _table(left: Sequence[str], right: Sequence[str], last: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in left:
        table.add_column(title)
    for title in right:
        table.add_column(title, justify="right")
    table.add_column(last, overflow="fold")
    return table


def _plans(plan: Plan) -> Table:
    listed = candidates(plan)
    metrics = list(dict.fromkeys(metric for one in listed for metric in one.costs))
    joint = any(one.joint_kl is not None for one in listed)
    heads = ["Out", "Harm", *(["Joint KL"] if joint else []), *map(named, metrics)]
    table = _table(["Plan"], heads, "Blocks")
    for number, one in enumerate(listed, 1):
        chosen = is_chosen(plan, one)
        kl = [] if not joint else ["" if one.joint_kl is None else f"{one.joint_kl:.3g}"]
        costs = [format_metric(m, one.costs[m]) if m in one.costs else "" for m in metrics]
        cells = ["chosen" if chosen else str(number), str(len(one.removed)), f"{one.harm:.3g}"]
        cells += [*kl, *costs, blocks_of(plan, one, _NAMES)]
        table.add_row(*map(Text, cells), style="bold" if chosen else "")
    return table


def _choices(choices: Sequence[PrecisionChoice]) -> Table:
    """Every precision that was weighed: its own harm, and that of its best plan."""
    table = _table(["Precision"], ["Harm alone", "Harm in all", "Out"], "Why")
    for one in choices:
        total = "" if one.total is None else f"{one.total:.3g}"
        out = "" if one.total is None else str(len(one.removed))
        cells = [one.precision, f"{one.harm:.3g}", total, out, clean(one.note)]
        table.add_row(*map(Text, cells))
    return table


def _budgets(budgets: Sequence[PlannedBudget]) -> Iterator[Text]:
    several = len({budget.target for budget in budgets}) > 1
    for budget in budgets:
        place = f" on {clean(budget.target)}" if several else ""
        what = f"{named(budget.metric)}{place}"
        predicted = format_metric(budget.metric, budget.predicted)
        limit = format_metric(budget.metric, budget.limit)
        off = f" ± {format_metric(budget.metric, budget.margin)}" if budget.margin else ""
        sign = "<=" if budget.predicted <= budget.limit else ">"
        yield Text(f"{clean(budget.text)}: {what} predicted {predicted}{off} {sign} {limit}")


def _front(found: Front) -> Table:
    table = _table(["", "Cost"], ["Harm", "Out"], "Blocks")
    ours = found.chosen
    listed = list(found.points)
    if ours is not None and all(set(ours.removed) != set(one.removed) for one in listed):
        listed = sorted([*listed, ours], key=lambda one: (-one.cost, one.harm))
    for one in listed:
        chosen = ours is not None and set(one.removed) == set(ours.removed)
        cells = ["chosen" if chosen else "", format_metric(found.metric, one.cost)]
        cells += [f"{one.harm:.3g}", str(len(one.removed)), compact_names(one.removed, _NAMES)]
        table.add_row(*map(Text, cells), style="bold" if chosen else "")
    return table


def _reasons(reasons: Sequence[Reason]) -> Iterator[Text]:
    for reason in reasons:
        yield Text(clean(reason.text), style="" if reason.removed else "dim")
