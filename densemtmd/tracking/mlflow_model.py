"""A run's network as an MLflow model: pictures in, label maps out. MLflow copies this file beside the weights and runs it when it loads
them ("models from code"), so that nothing is pickled.

    model = mlflow.pyfunc.load_model("models:/streets/1")
    answers = model.predict(pandas.DataFrame({"picture": [Path("photo.jpg").read_bytes()]}))
    Image.open(io.BytesIO(answers["kundu"][0]))    # (H, W) class ids, in the labelset's colours

A request has a row per picture: the bytes of its file, of any size and of any format that ``densemtmd infer`` reads. The answer has a
column per labelset, of PNG files; ``params={"labelset": "kundu"}`` asks for one of them. Over HTTP both are base64.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel


class Network(PythonModel):
    """Labels pictures as :class:`densemtmd.Predictor` does."""

    def load_context(self, context: Any) -> None:
        from densemtmd.inference import Predictor

        self.predictor = Predictor.load(context.artifacts["network"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from densemtmd.datasets.pictures import read_picture
        from densemtmd.draw.labels import save_indexed
        from densemtmd.errors import UserError
        from densemtmd.labelling import choose_labelsets
        from densemtmd.tasks import Labelset

        rows = []
        with TemporaryDirectory() as folder:
            try:
                names = choose_labelsets((params or {}).get("labelset", "all"), self.predictor.space)
                for number, data in enumerate(model_input["picture"], 1):
                    picture, answer = Path(folder) / f"picture {number}", Path(folder) / "answer.png"
                    picture.write_bytes(data)
                    row = {}
                    for name, ids in self.predictor.all(read_picture(picture), names).items():
                        task = self.predictor.space[name]
                        assert isinstance(task, Labelset)
                        save_indexed(answer, ids, task.palette)
                        row[name] = answer.read_bytes()
                    rows.append(row)
            except UserError as error:  # of others MLflow's server says nothing but that there was one
                raise MlflowException(str(error).replace(f"{folder}/", ""), error_code=INVALID_PARAMETER_VALUE) from error
        return pd.DataFrame(rows, columns=names)


mlflow.models.set_model(Network())
