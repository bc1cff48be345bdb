"""One training run, from the event log to an artefact. All it depends on is passed in, the time included.

payments, labels -> validation -> split -> features, labels -> validation
-> XGBoost | logistic regression | rules | fallback model | models of smaller services
-> thresholds -> evaluation -> artefact
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from feature_repo.settings import RepoSettings
from training import ablation, artefact, baselines, evaluate, export, fallback_model, model, report
from training.compare_models import Scores, compare_models, gap
from training.feature_matrix import FeatureSource
from training.labelled_rows import TrainingSet, assemble, read
from training.manifest import manifest as make_manifest
from training.progress import Steps
from training.report import Findings
from training.settings import TrainingConfig
from training.split import PARTS
from training.threshold import Thresholds
from training.validation import Failure, Validator

OURS: Final = "XGBoost"
LOGISTIC: Final = "logistic regression"
RULES: Final = "rules"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a run; `metrics` and their keys are those of the manifest, `seconds` the duration of each step."""

    version: str
    path: Path
    promoted: bool
    rows: int
    features: Sequence[str]
    validation_success: bool
    failures: Sequence[Failure]
    data_docs: Path
    metrics: Mapping[str, Any]
    thresholds: Thresholds
    seconds: Mapping[str, float]

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.path / "report.html"


def run(
    source: FeatureSource,
    config: TrainingConfig,
    settings: RepoSettings,
    *,
    now: datetime,
    steps: Steps,
    stop_on_failure: bool = True,
    promote: bool = True,
) -> TrainingResult:
    """Train one model and write its artefact.

    `now` stamps the version. Without `stop_on_failure`, failed expectations do not stop the run. Raises
    `MillstreamError`.
    """
    services = ablation.smaller(source, config.compare_services)
    validator = Validator(settings.home / "data_docs")
    rows, split = read(
        config, settings, validator, steps, joined=source.joined_columns, stop_on_failure=stop_on_failure
    )
    data = assemble(source, rows, split, config, settings, validator, steps, stop_on_failure=stop_on_failure)
    trained = _grow(data, source, config, steps)
    scores, unused = _score(data, source, trained, config, steps)
    fallback = fallback_model.grow(data, source, trained.chosen, config, steps)
    if fallback is not None:
        scores[fallback_model.NAME] = fallback.scores
    without = ablation.score(data, source, services, trained.chosen, config, steps)

    with steps.step("evaluate", "Thresholds and evaluation") as step:
        valid = data.sample("valid", config.split.valid_days)
        test = data.sample("test", config.split.test_days)
        models = compare_models(scores, valid, test, config)
        ours, *others = models.values()
        gaps = [gap(ours, other, confidence=config.report.confidence) for other in others]
        levels = ablation.levels(source, ours, trained.chosen.trees, services, without, valid, test, config)
        kinds = evaluate.by_fraud_type(
            test.target,
            test.kind,
            scores[OURS].test,
            test.account,
            resamples=config.report.bootstrap,
            confidence=config.report.confidence,
            seed=config.model.seed,
        )
        exported = export.export(trained.booster, data.matrix[data.of("test")])
        estimates = ours.estimates
        step.found = (
            f"average precision {estimates['average_precision'].value:.3f}, ROC AUC {estimates['roc_auc'].value:.4f}, "
            f"recall at 1% false positives {estimates['recall_at_1pct_fpr'].value:.3f}"
        )

    with steps.step("write", "Report and artefact") as step:
        trees = bytes(trained.booster.save_raw("ubj"))
        found = Findings(
            version=artefact.new_version(now, trees),
            created=now,
            config=config,
            service=source.service,
            schema_hash=source.schema_hash,
            libraries=artefact.libraries(),
            split=split,
            rows={
                name: (int(data.of(name).sum()), int(data.labels.target[data.of(name)].sum()))
                for name in PARTS
            },
            validator=validator,
            trained=trained,
            exported=exported,
            models=models,
            gaps=dict(zip(list(models)[1:], gaps, strict=True)),
            levels=levels,
            kinds=kinds,
            valid=valid,
            test=test,
            unused_rules=unused,
            all_missing=data.all_missing,
            importance=trained.importance(),
        )
        manifest = make_manifest(
            found, source.features, train=data.matrix[data.of("train")], test=data.matrix[data.of("test")]
        )
        files = {"model.ubj": trees, "model.onnx": exported.onnx}
        if fallback is not None:
            files[fallback_model.FILE], manifest["fallback"] = fallback_model.write(
                fallback, models[fallback_model.NAME], data
            )
        place = _write(found, manifest, files, source, settings.models / config.name)
        if promote:
            artefact.promote(place.parent, place.name)
        step.found = place.name + (", promoted to champion" if promote else "")

    return TrainingResult(
        version=place.name,
        path=place,
        promoted=promote,
        rows=len(data.matrix),
        features=[feature.name for feature in source.features],
        validation_success=validator.success,
        failures=validator.failures,
        data_docs=validator.docs / "index.html",
        metrics=manifest["metrics"],
        thresholds=models[OURS].thresholds,
        seconds=dict(steps.seconds),
    )


def _grow(data: TrainingSet, source: FeatureSource, config: TrainingConfig, steps: Steps) -> model.Trained:
    train, valid = data.of("train"), data.of("valid")
    with steps.step("train", "Training XGBoost") as step:
        trained = model.fit(
            data.matrix[train],
            data.labels.target[train],
            data.matrix[valid],
            data.labels.target[valid],
            [feature.name for feature in source.features],
            config.model,
            lambda weighting, tree, of, ap: step.advance(f"weighting {weighting}: {ap:.4f}", tree, of),
        )
        chosen = trained.chosen
        step.found = f"{chosen.trees} trees, weighting {chosen.weighting}, average precision {chosen.average_precision:.3f} (validation)"
    return trained


def _score(
    data: TrainingSet, source: FeatureSource, trained: model.Trained, config: TrainingConfig, steps: Steps
) -> tuple[dict[str, Scores], list[str]]:
    """Return the scores of our model and of the baselines, and the features whose rules could not be used."""
    train, valid, test = (data.matrix[data.of(name)] for name in PARTS)
    with steps.step("baselines", "Baselines") as step:
        logistic = baselines.fit_logistic(
            train, data.labels.target[data.of("train")], threads=config.model.threads, seed=config.model.seed
        )
        scores = {
            OURS: Scores(trained.predict(valid), trained.predict(test)),
            LOGISTIC: Scores(logistic.predict(valid), logistic.predict(test)),
        }
        names = [feature.name for feature in source.features]
        usable, unused = baselines.usable_rules(names, config.rules)
        if usable:
            scores[RULES] = Scores(*(baselines.apply_rules(part, names, usable) for part in (valid, test)))
        step.found = ", ".join(list(scores)[1:])
    return scores, [rule.feature for rule in unused]


def _write(
    found: Findings,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    source: FeatureSource,
    folder: Path,
) -> Path:
    def fill(building: Path) -> None:
        for name, content in files.items():
            (building / name).write_bytes(content)
        source.save_plan(building / "plan.json")
        drawn = report.draw(found)
        (building / "plots").mkdir()
        for name, svg in drawn.items():
            (building / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8")
        (building / "report.html").write_text(report.render(found, drawn), encoding="utf-8")

    return artefact.write(folder, found.version, manifest, fill)
