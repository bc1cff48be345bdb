"""What the flow adds to an event before it is logged: `joins` from other streams, `derived` columns, the windows they look at.

Declared here once and imported by the flow (columns of the log) and by the on-demand views (the payment being scored). No Feast, no
I/O: the functions take and give float64 arrays in which NaN is null.
"""
