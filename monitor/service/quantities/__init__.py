"""What is counted of a run, how it adds up over groups and weights, and what all of it is called.

Needs nothing that a service needs: notebooks and dashboards have the same arithmetic and the same names from here.
"""
