"""Imported once by the process that flow processes are forked from: imports everything and compiles the kernels."""

from __future__ import annotations

import numpy as np

import flows.pipeline  # noqa: F401  a flow imports it when it starts
from feature_repo.stores.online.window_writer import EntityProjection
from feature_repo.streams.payments import PAYMENTS
from feature_repo.windows.state import KeyIndex, ViewState
from flows.accept.decode import Decoder
from flows.blocks import RawBlock
from flows.window_state.slices import cut
from tests.kits.payments import encoded, payment
from tests.kits.views import VIEWS

_payloads = [encoded(payment(n)) for n in range(8)]
_rows = Decoder(PAYMENTS)(RawBlock("warm", -1, np.arange(8), np.arange(8), _payloads)).rows
for _piece in cut(_rows, VIEWS.entities("payments"), 2):
    _index, _states = KeyIndex(), []
    _slots = _index.slots(_piece.keys)
    _specs = VIEWS.entities("payments")[_piece.entity]
    for _spec, _columns in zip(_specs, _piece.columns, strict=True):
        _states.append(ViewState(_spec))
        _states[-1].fold(_slots, _columns)
        ViewState(_spec).load(np.arange(len(_index)), *_states[-1].pack(np.arange(len(_index))))
        ViewState(_spec).read_then_fold(_slots, _columns)
    _projection = EntityProjection(None, VIEWS.project, _specs)
    _projection.calls(_index, _states, np.arange(len(_index)))
