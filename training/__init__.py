"""Training of models: labels, training set, validation, model, thresholds, report, artefact.

Start a run with `python -m training.train --service fraud_detection_v1`, or with `training.train.train` from Python.
"""
