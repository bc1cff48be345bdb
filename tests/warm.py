"""Loaded once by the process that flow processes are forked from: imports done, kernels compiled."""

from __future__ import annotations

import numpy as np

from feature_repo.windows.state import KeyIndex, ViewState
from flows.blocks import RawBlock
from flows.steps.decode import Decoder
from flows.steps.route import cut
from flows.streams import PAYMENTS
from tests.flowkit import VIEWS, encoded, payment

_payloads = [encoded(payment(n)) for n in range(8)]
_rows = Decoder(PAYMENTS)(RawBlock("warm", -1, np.arange(8), np.arange(8), _payloads)).rows
for _piece in cut(_rows, VIEWS.entities("payments"), 2):
    _index = KeyIndex()
    _slots = _index.slots(_piece.keys)
    for _spec, _columns in zip(VIEWS.entities("payments")[_piece.entity], _piece.columns, strict=True):
        _state = ViewState(_spec)
        _state.fold(_slots, _columns)
        ViewState(_spec).load(np.arange(len(_index)), *_state.pack(np.arange(len(_index))))
