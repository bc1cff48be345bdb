"""The meaning of a windowed aggregation: one spec, one fold, one read. Pure: no I/O, no clock.

What a view computes:

* `functions`  the functions that can be computed over a window
* `aggregate`  one feature: a function over a column in a window
* `layout`     the words of a row of a view's state, and the tables for the kernels
* `spec`       a `ViewSpec`, made from a Feast `StreamFeatureView`

Events and states:

* `columns`    events as flat arrays: times, ordered ids, hashed keys, values
* `header`     checks that bytes are a state of a view
* `state`      the rows kept per key, as flat arrays and as bytes; events are folded into them
* `read`       the features of one key as of a time, from its state
* `read_views` the same for all views of a request, in one call

`kernels` holds the compiled functions of these modules, `history` computes the same features for many keys and times
at once from a history of events. Kernels are cached on disk, see `feature_repo.kernel_cache`.
"""
