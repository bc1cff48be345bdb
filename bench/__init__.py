"""Benchmarks of Millstream against what people use today; each runs in a process of its own.

* `harness`  rounds, medians, targets, and the machine they were measured on
* `w1`       workload W1: payments, and the features computed for them
* `run`      all benchmarks (`make bench`): tables, `results/latest.json`, plots

Every other module is one benchmark: `python -m bench.kernel --help`. Each checks the answers that it timed before it
reports.
"""
