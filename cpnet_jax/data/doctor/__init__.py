"""Checks a dataset: examines every image and label, and reports whether they are sound to train on.

examined_data.py  the data to examine: a builder's raw files, or prepared records
scan.py           reads each pair and finds its problems
census.py         counts over all pairs, and finds problems that only show in all of them together
findings.py       the kinds of problems, with titles and remedies
report.py         formats the result as text and as JSON
sheet.py          draws a contact sheet of labels over images
"""
