"""Does a network under transposable masks train as well as a dense one? Small models, equal budgets, paired seeds.

    python -m bench.training.run --task vision  [--images cifar10_small.npz]   # each may run in a process of its own
    python -m bench.training.run --task language [--text tinyshakespeare.txt]
    python -m bench.training.renewals                                          # their share of the time
    python -m bench.training.report

Two tasks: a ResNet on images, a GPT on characters. Without files they take what is installed: scikit-learn's digits,
and Python's own documentation. Every setting (`settings.py`) has the same steps, batches and seeds; a setting differs
from dense by its masks alone. Rows go to `bench/results/training.csv` as runs finish, so that an interrupted benchmark
goes on where it was; tables and plots are drawn from the rows alone.
"""
