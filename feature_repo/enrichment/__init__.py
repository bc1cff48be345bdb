"""What the flow adds to an event before it is logged: `joins` with other streams and `derived` columns.

The flow uses them for the columns of the log, on-demand views for the payment being scored. No Feast and no I/O: the
functions take and return float64 arrays in which NaN is null.
"""
