"""The storm: a real service under load and a seeded schedule of faults, and an exact tally beside it.

python -m tests.storm --seed 1 --seconds 60
"""
