"""Reads a list of series, writes for each the weak points of Otava's split, and those that are left when
the weakest is taken out until all have a chance below 0.001, all statistics by Otava."""
import json
import sys

from otava.analysis import TTestSignificanceTester, split

P = 0.001


def merge(points, series):
    tester = TTestSignificanceTester(P)
    while points:
        intervals = tester.get_intervals(points)
        points = [tester.change_point(c.to_candidate(), series, intervals) for c in points]
        weakest = max(points, key=lambda c: c.stats.pvalue)
        if weakest.stats.pvalue < P:
            break
        points = [c for c in points if c.index != weakest.index]
    return points


answer = []
for series in json.load(sys.stdin):
    weak = split(series, 50, 10 * P)
    left = merge(weak, series)
    answer.append([[int(c.index) for c in weak], [int(c.index) for c in left]])
print(json.dumps(answer))
