"""How models learn from the features: labels, training set, gate, model, thresholds, report, artefact.

`training.train` is the door: `python -m training.train --service fraud_detection_v1`, or `train(...)` from Python.
"""
