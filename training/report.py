"""One self-contained HTML page per trained model: what it is worth, what it costs, and what it was made from.

Everything is said on the test days, except where a caption names the validation days. The page loads nothing from anywhere.
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
from training.compare_models import Judged
from training.evaluate import METRICS, Estimate
from training.export import TOLERANCE, Exported
from training.labelled_rows import Sample
from training.model import Trained
from training.settings import TrainingConfig
from training.split import Split
from training.threshold import Thresholds
from training.validation import Gate

TEMPLATE: Final = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything a run found out; the manifest and the report are two views of it. The first of `models` is ours."""

    version: str
    created: datetime
    config: TrainingConfig
    service: str
    schema_hash: str
    libraries: Mapping[str, str]
    split: Split
    rows: Mapping[str, tuple[int, int]]
    """Per part: payments, frauds."""
    gate: Gate
    trained: Trained
    exported: Exported
    models: Mapping[str, Judged]
    gaps: Mapping[str, Mapping[str, Estimate]]
    """Per other model: by how much ours is better."""
    levels: Sequence[Level]
    """Per service, the smallest first: what its features are worth; empty when nothing was compared."""
    kinds: Mapping[str, tuple[int, Mapping[str, Estimate]]]
    valid: Sample
    test: Sample
    unused_rules: Sequence[str]
    all_missing: Sequence[str]
    importance: Mapping[str, float]

    @property
    def ours(self) -> Judged:
        """The model of the artefact."""
        return next(iter(self.models.values()))


def draw(found: Findings) -> dict[str, str]:
    """SVG per plot name."""
    ours, test, valid = found.ours, found.test, found.valid
    marks = {"review": ours.thresholds.review, "decline": ours.thresholds.decline}
    rankings = {
        name: evaluate.Ranking(test.target, judged.scores.test) for name, judged in found.models.items()
    }
    scores = {name: judged.scores.test for name, judged in found.models.items()}
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
    ranked = {level.service: level.judged.estimates["average_precision"] for level in found.levels}
    cost = {level.service: _a_day(level.judged.cost, days) for level in found.levels}
    return {
        "services": plots.bars(ranked, "Average precision", lambda value: f"{value:.3f}"),
        "services_cost": plots.bars(cost, "Cost a day", _money),
    }


CAPTIONS: Final = {
    "services": "The same trees on the features of each service. Lines are the intervals of each alone.",
    "services_cost": "Thresholds chosen for each in the same way. A few large frauds decide it.",
    "precision_recall": "Up and to the right is better. The dots are where review and decline begin.",
    "amount_caught": "How much of the stolen money lies in the payments one would look at first.",
    "scores": "Both axes are stretched: most honest payments score far below one in a thousand.",
    "calibration": "Dots on the diagonal: a score can be read as a probability. Lines are 95% intervals.",
    "cost": "Fewer reviews to the right, more to the left. Lower costs left of the line would take more reviews than there are.",
    "kinds": "How many frauds of a kind are found when that share of the honest payments is flagged.",
    "importance": "Share of the total gain of all splits. Features that say the same share it between them.",
}


def render(found: Findings, svgs: Mapping[str, str]) -> str:
    """The page."""
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
            ("average_precision", "Average precision", f"by chance: {outcome.frauds / outcome.payments:.4f}"),
            ("roc_auc", "ROC AUC", "by chance: 0.5"),
            ("recall_at_1pct_fpr", "Recall at 1% FPR", "by chance: 0.01"),
        )
    ]
    cards += [
        {
            "name": "Stolen amount caught",
            "value": _share(outcome.caught_share),
            "note": f"{_share(ours.caught.low)} to {_share(ours.caught.high)}\n"
            f"{outcome.declined_fraud_amount / outcome.fraud_amount:.0%} declined at once",
        },
        {
            "name": "Saved a day",
            "value": _money(saved / days),
            "note": f"of {_money(outcome.cost_of_approving_all / days)} that approving everything costs",
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
        "gate": found.gate,
        "outcome": outcome,
        "confidence": f"{config.report.confidence:.0%}",
        "test_days": f"{days:g} days",
        "headline": f"The model stops {_share(outcome.caught_share)} of the stolen money and touches "
        f"{honest_touched / honest:.2%} of the honest payments.",
        "cards": cards,
        "comparison_sentence": _comparison(found),
        "models": [
            {
                "name": name,
                "estimates": [judged.estimates[metric] for metric in METRICS],
                "caught": _share(judged.caught.value),
                "caught_range": f"{_share(judged.caught.low)}\u2013{_share(judged.caught.high)}",
                "cost": _money(judged.cost.value / days),
                "cost_range": f"{_money(judged.cost.low / days)}\u2013{_money(judged.cost.high / days)}",
            }
            for name, judged in found.models.items()
        ],
        "unused_rules": found.unused_rules,
        **_services(found, svgs),
        "plots": [_plot(name, svg) for name, svg in svgs.items() if not name.startswith("services")],
        "kinds": [
            {"name": name, "frauds": frauds, "estimates": [estimates[metric] for metric in METRICS]}
            for name, (frauds, estimates) in found.kinds.items()
        ],
        "threshold_sentence": f"Chosen on the {found.valid.days:g} validation days: the two scores that cost least, with at "
        f"most {config.cost.reviews_per_day:g} reviews a day. Below is what they did on the test days.",
        "decisions": _decisions(ours, days),
        "cost_sentence": f"Cost table: a review {config.cost.review:g}; an honest payment declined "
        f"{config.cost.declined_good:g} plus {config.cost.declined_good_share:.0%} of its amount; a fraud approved "
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
        "export_sentence": f"model.onnx gives the same scores as XGBoost: the largest difference over {found.exported.compared:,} "
        f"test payments is {found.exported.max_difference:.1e} (allowed: {TOLERANCE:.0e}).",
    }


def _plot(name: str, svg: str) -> dict[str, Any]:
    return {"svg": svg, "caption": CAPTIONS[name], "wide": name == "importance"}


def _services(found: Findings, svgs: Mapping[str, str]) -> dict[str, Any]:
    days = found.test.days
    rows = []
    for level in found.levels:
        ap, cost = level.judged.estimates["average_precision"], _a_day(level.judged.cost, days)
        gain, saved = level.gain.get("average_precision"), level.gain.get("saved")
        rows.append(
            {
                "name": level.service,
                "features": len(level.features),
                "ap": ap,
                "gain": f"{gain.value:+.3f}" if gain else "",
                "gain_range": f"{gain.low:+.3f} to {gain.high:+.3f}" if gain else "",
                "caught": _share(level.judged.caught.value),
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
        verdict = f"make no difference that these days could show {span}"
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
    timeline.append(_block("none", "too young", at(last), 100.0))
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
            verdict = f"not distinguishable from {name}"
        told.append(f"{verdict} ({e.low:+.3f} to {e.high:+.3f})")
    saved = [_saving(name, gap["saved"], found.test.days) for name, gap in found.gaps.items()]
    return (
        f"Average precision of the trees is {' and '.join(told)}, each pair compared on the same resamples. "
        f"In money they {' and '.join(saved)}. A few large frauds decide the money, so its intervals are wide."
    )


def _saving(name: str, saved: Estimate, days: float) -> str:
    span = f"({saved.low / days:+,.0f} to {saved.high / days:+,.0f})"
    if saved.low > 0:
        return f"save {_money(saved.value / days)} a day against {name} {span}"
    if saved.high < 0:
        return f"cost {_money(-saved.value / days)} a day more than {name} {span}"
    return f"cannot be told apart from {name} {span}"


def _decisions(ours: Judged, days: float) -> list[dict[str, str]]:
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
    """Never rounds to all or nothing what is neither."""
    return f"{share:.0%}" if share in {0.0, 1.0} else f"{min(max(share, 0.001), 0.999):.1%}"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):g} days"
