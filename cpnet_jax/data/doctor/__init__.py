"""A doctor for datasets: looks at every image and label, and says whether training on them would be sound.

subject.py   what is examined: the raw source of a builder, or prepared records
scan.py      one pair at a time: what it shows and what is wrong with it
census.py    counts over all pairs, and what only shows in all of them together
findings.py  the kinds of trouble, in words
report.py    for people and as JSON
sheet.py     a contact sheet of overlays to look at
"""
