"""``llm-rec train generative``: `train` with the generative methods, which write the next item's semantic ID."""

from llm_rec.recipes import train
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.train import TrainJob

RECIPE = Recipe(
    verb="train generative",
    description="Train a generative recommender over semantic IDs, evaluate its lists, and save it ready to serve.",
    job=TrainJob,
    presets={name: train.RECIPE.presets[name] for name in ("generative", "tiger")},
    run=train.run,
)
