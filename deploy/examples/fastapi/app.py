"""A model behind FastAPI, watched and protected: the three lines are marked.

    pip install fastapi uvicorn scikit-learn
    SERVING_SETTINGS=serving.yaml uvicorn --app-dir deploy/examples/fastapi app:app
    curl -H 'Authorization: Bearer sk-me' -d '{"pixels": [0, 0, 0.3, ...]}' localhost:8000/predict

The model tells hand-written digits (8 by 8 pixels, 0 to 1) apart. `serving.yaml` stands beside this file.
"""

from __future__ import annotations

import os
import warnings
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from sinks.serving.middleware import ModelwardenMiddleware, header_key  # 1


class Question(BaseModel):
    """One image."""

    pixels: Annotated[list[float], Field(min_length=64, max_length=64)]


def train() -> MLPClassifier:
    """Fit the model on the first 900 of scikit-learn's digits; the same every time."""
    digits = load_digits()
    model = MLPClassifier((64,), max_iter=40, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 passes are enough here
        model.fit(digits.data[:900] / 16, digits.target[:900])
    return model


model = train()
app = FastAPI()
app.add_middleware(ModelwardenMiddleware, settings=os.environ.get("SERVING_SETTINGS", "serving.yaml"))  # 2


@app.post("/predict")
async def predict(question: Question, request: Request) -> dict[str, Any]:
    """Answer with the class probabilities."""
    if not header_key(request.scope):
        raise HTTPException(401, "an API key is needed")
    answer = model.predict_proba(np.array([question.pixels]))[0]
    answer = request.state.modelwarden.observe(inputs=question.pixels, probabilities=answer)  # 3
    return {"probabilities": [round(float(p), 6) for p in answer]}
