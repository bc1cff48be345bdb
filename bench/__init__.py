"""How fast Millstream is, against what people use today: one benchmark a file, each run in a process of its own.

* `harness`  rounds, medians, targets, and the machine they were measured on
* `w1`       workload W1: payments, and the features asked of them
* `run`      all of them (`make bench`): tables, `results/latest.json`, plots

Every other module is a benchmark: `python -m bench.kernel --help`. Each checks that what it timed gave the right answer before it reports.
"""
