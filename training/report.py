"""The HTML report of a trained model: metrics, comparisons, costs, data and settings, in one self-contained page.

All figures are of the test days, except where a caption names the validation days. The page loads no other resource.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from training import evaluate, plots, threshold
from training.ablation import Level
from training.compare_models import ModelResult
from training.evaluate import METRICS, Estimate
from training.export import TOLERANCE, Exported
from training.labelled_rows import Sample
from training.model import Trained
from training.settings import TrainingConfig
from training.split import Split
from training.threshold import Thresholds
from training.validation import Validator

TEMPLATE: Final = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True, slots=True)
class Findings:
    """All results of a run, from which manifest and report are written. The first of `models` is the trained model."""

    version: str
    created: datetime
    config: TrainingConfig
    service: str
    schema_hash: str
    libraries: Mapping[str, str]
    split: Split
    rows: Mapping[str, tuple[int, int]]
    """Part -> (payments, frauds)."""
    validator: Validator
    trained: Trained
    exported: Exported
    models: Mapping[str, ModelResult]
    gaps: Mapping[str, Mapping[str, Estimate]]
    """Other model -> by how much ours is better, per metric."""
    levels: Sequence[Level]
    """Results per service, the smallest first; empty if nothing was compared."""
    kinds: Mapping[str, tuple[int, Mapping[str, Estimate]]]
    valid: Sample
    test: Sample
    unused_rules: Sequence[str]
    all_missing: Sequence[str]
    importance: Mapping[str, float]

    @property
    def ours(self) -> ModelResult:
        """The result of the model of the artefact."""
        return next(iter(self.models.values()))


def draw(found: Findings) -> dict[str, str]:
    """Return plot name -> SVG."""
    ours, test, valid = found.ours, found.test, found.valid
    marks = {"review": ours.thresholds.review, "decline": ours.thresholds.decline}
    rankings = {
        name: evaluate.Ranking(test.target, result.scores.test) for name, result in found.models.items()
    }
    scores = {name: result.scores.test for name, result in found.models.items()}
    touched = (ours.outcome.reviewed + ours.outcome.declined) / test.days
    top = [(name, share) for name, share in found.importance.items() if share >= 0.0005]
    top = top[: found.config.report.top_features]
    review = np.geomspace(1e-4, max(2e-4, ours.thresholds.decline), 120)
    costs = [
        threshold.apply(
            valid.target,
            ours.scores.valid,
            valid.amount,
            found.config.cost,
            Thresholds(float(at), max(float(at), ours.thresholds.decline)),
        )
        for at in review
    ]
    return _draw_services(found) | {
        "precision_recall": plots.precision_recall(rankings, marks),
        "amount_caught": plots.amount_caught(
            test.target, test.amount, scores, days=test.days, flagged_per_day=touched
        ),
        "scores": plots.score_distribution(test.target, ours.scores.test, ours.thresholds),
        "calibration": plots.calibration(test.target, ours.scores.test),
        "cost": plots.cost_curve(
            review,
            np.array([c.cost for c in costs]) / valid.days,
            ours.thresholds.review,
            approve_all=costs[0].cost_of_approving_all / valid.days,
        ),
        "kinds": plots.recall_by_kind(
            {
                kind: evaluate.Ranking(test.target[keep], ours.scores.test[keep])
                for kind in found.kinds
                for keep in [(test.target == 0) | (test.kind == kind)]
            }
        ),
        "importance": plots.importance(top),
    }


def _draw_services(found: Findings) -> dict[str, str]:
    if not found.levels:
        return {}
    days = found.test.days
    ranked = {level.service: level.result.estimates["average_precision"] for level in found.levels}
    cost = {level.service: _a_day(level.result.cost, days) for level in found.levels}
    return {
        "services": plots.bars(ranked, "Average precision", lambda value: f"{value:.3f}"),
        "services_cost": plots.bars(cost, "Cost per day", _money),
    }


CAPTIONS: Final = {
    "services": "The same model on the features of each service. Lines are the intervals of each model.",
    "services_cost": "The thresholds of each model are chosen in the same way. A few large frauds dominate the cost.",
    "precision_recall": "Further up and to the right is better. The dots are the thresholds for review and decline.",
    "amount_caught": "Share of the fraud amount in the payments with the highest scores.",
    "scores": "Logistic x axis, logarithmic y axis: most honest payments score far below 0.1%.",
    "calibration": "On the diagonal, a score equals the probability of fraud. Lines are 95% intervals.",
    "cost": "A lower threshold means more reviews. Thresholds left of the chosen one would need more reviews than the limit allows.",
    "kinds": "Share of the frauds of a type that is found if that share of the honest payments is flagged.",
    "importance": "Share of the total gain of all splits. Correlated features share it between them.",
}


def render(found: Findings, svgs: Mapping[str, str]) -> str:
    """Return the HTML page; `svgs` are the plots of `draw`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(r=_page(found, svgs))


def _page(found: Findings, svgs: Mapping[str, str]) -> dict[str, Any]:
    ours, days = found.ours, found.test.days
    outcome = ours.outcome
    honest_touched = outcome.declined + outcome.reviewed - outcome.declined_frauds - outcome.reviewed_frauds
    honest = outcome.payments - outcome.frauds
    saved = outcome.cost_of_approving_all - outcome.cost
    cards = [
        _card(name, ours.estimates[metric], note)
        for metric, name, note in (
            (
                "average_precision",
                "Average precision",
                f"random model: {outcome.frauds / outcome.payments:.4f}",
            ),
            ("roc_auc", "ROC AUC", "random model: 0.5"),
            ("recall_at_1pct_fpr", "Recall at 1% FPR", "random model: 0.01"),
        )
    ]
    cards += [
        {
            "name": "Fraud amount caught",
            "value": _share(outcome.caught_share),
            "note": f"{_share(ours.caught.low)} to {_share(ours.caught.high)}\n"
            f"{outcome.declined_fraud_amount / outcome.fraud_amount:.0%} declined without review",
        },
        {
            "name": "Saved per day",
            "value": _money(saved / days),
            "note": f"of {_money(outcome.cost_of_approving_all / days)} that approving all payments would cost",
        },
    ]
    config = found.config
    return {
        "name": config.name,
        "version": found.version,
        "service": found.service,
        "created": f"{found.created:%d %B %Y %H:%M} UTC",
        "libraries": found.libraries,
        "schema_hash": found.schema_hash,
        "validation": found.validator,
        "outcome": outcome,
        "confidence": f"{config.report.confidence:.0%}",
        "test_days": f"{days:g} days",
        "headline": f"The model catches {_share(outcome.caught_share)} of the fraud amount and flags "
        f"{honest_touched / honest:.2%} of the honest payments.",
        "cards": cards,
        "comparison_sentence": _comparison(found),
        "models": [
            {
                "name": name,
                "estimates": [result.estimates[metric] for metric in METRICS],
                "caught": _share(result.caught.value),
                "caught_range": f"{_share(result.caught.low)}\u2013{_share(result.caught.high)}",
                "cost": _money(result.cost.value / days),
                "cost_range": f"{_money(result.cost.low / days)}\u2013{_money(result.cost.high / days)}",
            }
            for name, result in found.models.items()
        ],
        "unused_rules": found.unused_rules,
        **_services(found, svgs),
        "plots": [_plot(name, svg) for name, svg in svgs.items() if not name.startswith("services")],
        "kinds": [
            {"name": name, "frauds": frauds, "estimates": [estimates[metric] for metric in METRICS]}
            for name, (frauds, estimates) in found.kinds.items()
        ],
        "threshold_sentence": f"The thresholds minimise the cost on the {found.valid.days:g} validation days, with at most "
        f"{config.cost.reviews_per_day:g} reviews per day. The table shows their result on the test days.",
        "decisions": _decisions(ours, days),
        "cost_sentence": f"Costs: a review {config.cost.review:g}; a declined honest payment "
        f"{config.cost.declined_good:g} plus {config.cost.declined_good_share:.0%} of its amount; an approved fraud "
        f"{config.cost.missed_fraud:g} plus {config.cost.missed_fraud_share:.0%} of its amount.",
        **_data(found),
        "all_missing": found.all_missing,
        "candidates": [
            {
                "name": f"{c.weight:.3g}",
                "trees": c.trees,
                "average_precision": c.average_precision,
                "chosen": c == found.trained.chosen,
            }
            for c in found.trained.candidates
        ],
        "export_sentence": f"model.onnx gives the same scores as XGBoost: over {found.exported.compared:,} "
        f"test payments the largest difference is {found.exported.max_difference:.1e} (allowed: {TOLERANCE:.0e}).",
    }


def _plot(name: str, svg: str) -> dict[str, Any]:
    return {"svg": svg, "caption": CAPTIONS[name], "wide": name == "importance"}


def _services(found: Findings, svgs: Mapping[str, str]) -> dict[str, Any]:
    days = found.test.days
    rows = []
    for level in found.levels:
        ap, cost = level.result.estimates["average_precision"], _a_day(level.result.cost, days)
        gain, saved = level.gain.get("average_precision"), level.gain.get("saved")
        rows.append(
            {
                "name": level.service,
                "features": len(level.features),
                "ap": ap,
                "gain": f"{gain.value:+.3f}" if gain else "",
                "gain_range": f"{gain.low:+.3f} to {gain.high:+.3f}" if gain else "",
                "caught": _share(level.result.caught.value),
                "cost": _money(cost.value),
                "saved": f"{saved.value / days:+,.0f}" if saved else "",
                "saved_range": f"{saved.low / days:+,.0f} to {saved.high / days:+,.0f}" if saved else "",
            }
        )
    return {
        "services": rows,
        "services_sentence": " ".join(_gained(level) for level in found.levels if level.over),
        "services_plots": [_plot(name, svg) for name, svg in svgs.items() if name.startswith("services")],
    }


def _gained(level: Level) -> str:
    e = level.gain["average_precision"]
    span = f"({e.low:+.3f} to {e.high:+.3f})"
    if e.low > 0:
        verdict = f"raise average precision by {e.value:.3f} {span}"
    elif e.high < 0:
        verdict = f"lower average precision by {-e.value:.3f} {span}"
    else:
        verdict = f"make no significant difference to average precision {span}"
    return f"The features that {level.service} adds to {level.over} {verdict}."


def _a_day(total: Estimate, days: float) -> Estimate:
    return Estimate(total.value / days, total.low / days, total.high / days)


def _data(found: Findings) -> dict[str, Any]:
    start = found.split.train.since - found.config.data.warmup
    end = found.split.test.known_at
    span = (end - start) / timedelta(days=1)

    def at(moment: datetime) -> float:
        return round(100 * ((moment - start) / timedelta(days=1)) / span, 3)

    timeline, ticks, last = [], [], start
    for name, part in found.split.items():
        if part.since > last:
            timeline.append(_block("none", "warm-up" if last == start else "gap", at(last), at(part.since)))
        timeline.append(_block(name, name, at(part.since), at(part.until)))
        last = part.until
    timeline.append(_block("none", "too recent", at(last), 100.0))
    moments = [start, *(part.since for _, part in found.split.items()), end]
    ticks = [{"left": at(moment), "label": f"{moment:%d %b %Y}"} for moment in dict.fromkeys(moments)]
    if found.config.data.warmup and at(found.split.train.since) < 12:
        ticks.pop(1)
    return {
        "timeline": timeline,
        "ticks": ticks,
        "label_delay": _days(found.config.data.label_delay),
        "parts": [
            {
                "name": name,
                "rows": found.rows[name][0],
                "frauds": found.rows[name][1],
                "share": f"{found.rows[name][1] / max(1, found.rows[name][0]):.3%}",
                "since": f"{part.since:%d %b %Y %H:%M}",
                "until": f"{part.until:%d %b %Y %H:%M}",
                "known": f"{part.known_at:%d %b %Y %H:%M}",
            }
            for name, part in found.split.items()
        ],
    }


def _comparison(found: Findings) -> str:
    told = []
    for name, gap in found.gaps.items():
        e = gap["average_precision"]
        if e.low > 0:
            verdict = f"{e.value:.3f} above {name}"
        elif e.high < 0:
            verdict = f"{-e.value:.3f} below {name}"
        else:
            verdict = f"not significantly different from {name}"
        told.append(f"{verdict} ({e.low:+.3f} to {e.high:+.3f})")
    saved = [_saving(name, gap["saved"], found.test.days) for name, gap in found.gaps.items()]
    return (
        f"The average precision of XGBoost is {' and '.join(told)}, each pair compared on the same bootstrap resamples. "
        f"In cost, XGBoost {' and '.join(saved)}. A few large frauds dominate the cost, so its intervals are wide."
    )


def _saving(name: str, saved: Estimate, days: float) -> str:
    span = f"({saved.low / days:+,.0f} to {saved.high / days:+,.0f})"
    if saved.low > 0:
        return f"saves {_money(saved.value / days)} per day compared with {name} {span}"
    if saved.high < 0:
        return f"costs {_money(-saved.value / days)} per day more than {name} {span}"
    return f"is not significantly different from {name} {span}"


def _decisions(ours: ModelResult, days: float) -> list[dict[str, str]]:
    o, t = ours.outcome, ours.thresholds
    rows = [
        ("decline", f"from {t.decline:.4g}", o.declined, o.declined_frauds, o.declined_fraud_amount),
        (
            "review",
            f"{t.review:.4g} to {t.decline:.4g}",
            o.reviewed,
            o.reviewed_frauds,
            o.reviewed_fraud_amount,
        ),
        (
            "approve",
            f"below {t.review:.4g}",
            o.payments - o.declined - o.reviewed,
            o.frauds - o.declined_frauds - o.reviewed_frauds,
            o.fraud_amount - o.declined_fraud_amount - o.reviewed_fraud_amount,
        ),
    ]
    return [
        {
            "name": name,
            "score": score,
            "payments": f"{n / days:,.1f}",
            "honest": f"{(n - frauds) / days:,.1f}",
            "frauds": f"{frauds / days:,.1f}",
            "amount": _money(amount / days),
        }
        for name, score, n, frauds, amount in rows
    ]


def _card(name: str, e: Estimate, note: str) -> dict[str, str]:
    return {"name": name, "value": f"{e.value:.3f}", "note": f"{e.low:.3f} to {e.high:.3f}\n{note}"}


def _block(kind: str, label: str, left: float, right: float) -> dict[str, Any]:
    wide = right - left
    return {"kind": kind, "title": label, "label": label if wide > 5.5 else "", "left": left, "width": wide}


def _money(amount: float) -> str:
    return f"{amount:,.0f}"


def _share(share: float) -> str:
    """Format a share; only exactly 0 and 1 are shown as 0% and 100%."""
    return f"{share:.0%}" if share in {0.0, 1.0} else f"{min(max(share, 0.001), 0.999):.1%}"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"
