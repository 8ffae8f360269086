"""An encode job on a local Ray as its own process: ``ray_job.py CATALOG OUT ENCODER WORKERS [MODEL]``."""

import importlib.util
import sys
from pathlib import Path

from llm_rec.encoders.ray_engine import RayConfig, encode_catalog_on_ray

spec = importlib.util.spec_from_file_location("encode_job", Path(__file__).with_name("encode_job.py"))
assert spec is not None
assert spec.loader is not None
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)

if __name__ == "__main__":
    catalog, out, name, workers, *model = sys.argv[1:]
    encoder = job.job_encoder(name, *(model or [""]))
    encode_catalog_on_ray(Path(catalog), encoder, Path(out), job.JOB_CONFIG, RayConfig(workers=int(workers)))
