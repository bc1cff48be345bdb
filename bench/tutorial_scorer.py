"""The scorer of a tutorial: FastAPI, `get_online_features`, `inplace_predict`; the reference of `bench.score`.

BENCH_TUTORIAL names a JSON file: folder of the Feast registry, address of Redis, references and names of the features
in the order of the model, the model's file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from fastapi import FastAPI
from pydantic import BaseModel

from bench.feast_plain import entity_row, reference_store

with Path(os.environ["BENCH_TUTORIAL"]).open() as file:
    given: dict[str, Any] = json.load(file)
store = reference_store(Path(given["folder"]), given["redis_url"])
booster = xgb.Booster(model_file=given["model"])
booster.set_param({"nthread": 1})
app = FastAPI()


class Payment(BaseModel):
    """The request."""

    event_id: str
    event_timestamp: str
    account_id: str
    merchant_id: str
    type: str
    amount: float
    currency: str
    account_balance_before: float | None = None
    account_balance_after: float | None = None
    merchant_balance_before: float | None = None
    merchant_balance_after: float | None = None
    latitude: float | None = None
    longitude: float | None = None
    channel: str | None = None
    device_id: str | None = None


class Answer(BaseModel):
    """The response."""

    event_id: str
    score: float
    decision: str


@app.post("/score")
async def score(payment: Payment) -> Answer:
    """Score one payment."""
    row = entity_row(payment.model_dump())
    features = store.get_online_features(features=given["references"], entity_rows=[row]).to_dict()
    vector = np.array([[features[name][0] for name in given["names"]]], np.float32)
    fraud = float(booster.inplace_predict(vector)[0])
    return Answer(event_id=payment.event_id, score=fraud, decision="review" if fraud > 0.5 else "approve")
