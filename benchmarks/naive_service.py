"""The baseline of `benchmarks.serving`, as written in a day: FastAPI, Pillow, Keras, and one INSERT per request.

A competent first version: model and connection are opened once, values are passed as parameters, nothing is slow on
purpose. Run it as `uvicorn benchmarks.naive_service:app` with MODEL and DATABASE_URL.
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import keras
import numpy as np
import psycopg2
from fastapi import FastAPI, UploadFile
from PIL import Image

TABLE = """
    CREATE TABLE IF NOT EXISTS predictions (
        id         serial PRIMARY KEY,
        image_name text,
        score      real,
        result     text,
        timestamp  timestamp DEFAULT now()
    )"""
INSERT = "INSERT INTO predictions (image_name, score, result) VALUES (%s, %s, %s) RETURNING id"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One model and one connection for as long as it runs."""
    app.state.model = keras.models.load_model(os.environ["MODEL"])
    app.state.connection = psycopg2.connect(os.environ["DATABASE_URL"])
    with app.state.connection.cursor() as cursor:
        cursor.execute(TABLE)
    app.state.connection.commit()
    yield
    app.state.connection.close()


app = FastAPI(lifespan=lifespan)


@app.post("/detect")
async def detect(file: UploadFile) -> dict[str, Any]:
    """Scores one image and logs it."""
    model = app.state.model
    image = Image.open(io.BytesIO(await file.read())).convert("RGB").resize(model.input_shape[1:3])
    score = float(model.predict(np.asarray(image, np.float32)[np.newaxis], verbose=0)[0, 0])
    result = "Anomaly Detected" if score > 0.5 else "No Anomaly"
    with app.state.connection.cursor() as cursor:
        cursor.execute(INSERT, (file.filename, score, result))
        id_ = cursor.fetchone()[0]
    app.state.connection.commit()
    return {"id": id_, "image_name": file.filename, "score": score, "result": result}
